#!/usr/bin/env bash
# Stop what slurm_up.sh has started: jobs, nodes, controller, munge, and nothing else. Harmless when nothing runs.
#
#   tests/cluster/slurm_down.sh            # logs stay in CLUSTER_DIR/log
#   tests/cluster/slurm_down.sh --purge    # nothing stays
set -uo pipefail

dir=${CLUSTER_DIR:-/tmp/anyshot-cluster}
link=/etc/slurm/slurm.conf
export SLURM_CONF=$dir/slurm.conf
[ -e "$dir/anyshot-cluster" ] || exit 0

# A zombie counts as gone: in a container nobody may come to reap it.
running() { [ -e "/proc/$1" ] && ! grep -qs "^State:[[:space:]]*Z" "/proc/$1/status"; }

# within SECONDS COMMAND...: until the command fails, at most so long
within() {
    local limit=$((SECONDS + $1))
    shift
    while "$@" && ((SECONDS < limit)); do sleep 0.05; done
}

# end NAME PIDFILE: only a process that still is this program
end() {
    local pid
    pid=$(cat "$2" 2>/dev/null) || return 0
    [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] || return 0
    kill -TERM "$pid" 2>/dev/null
    within 10 running "$pid"
    running "$pid" && kill -KILL "$pid" 2>/dev/null
    return 0
}

# A job outlives its node's daemon, so jobs go first.
if timeout 5 scontrol ping 2>/dev/null | grep -q "is UP"; then
    timeout 10 scancel --user=root
    jobs_left() { [ -n "$(timeout 5 squeue --noheader 2>/dev/null)" ]; }
    within 15 jobs_left
fi
for pidfile in "$dir"/run/slurmd-*.pid; do end slurmd "$pidfile"; done

# Where the controller could not be asked: what still runs under this cluster's configuration, children first.
descendants() {
    local child
    for child in $(pgrep -P "$1"); do descendants "$child"; done
    echo "$1"
}
for step in $(pgrep -x slurmstepd); do
    grep -qsxzF "SLURM_CONF=$SLURM_CONF" "/proc/$step/environ" || continue
    for pid in $(descendants "$step"); do kill -KILL "$pid" 2>/dev/null; done
done

end slurmctld "$dir/run/slurmctld.pid"
end munged "$dir/run/munged.pid"
[ "$(readlink "$link" 2>/dev/null)" != "$SLURM_CONF" ] || rm -f "$link"
rm -f "$dir/up"
if [ "${1:-}" = --purge ]; then rm -rf "$dir"; fi
