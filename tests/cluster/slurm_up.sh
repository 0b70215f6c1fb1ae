#!/usr/bin/env bash
# Start a private Slurm on this host: munge, a controller, virtual nodes with pretended GPUs. Loopback only, without
# systemd, cgroups and accounting. For tests; needs root, because only root's slurmd may start jobs.
#
#   apt-get install --no-install-recommends slurm-wlm munge
#   tests/cluster/slurm_up.sh          # a second call changes nothing; tests/cluster/slurm_down.sh ends it
#   tests/cluster/slurm_up.sh --check  # start nothing; where it would refuse, say why and return 1
#
#   CLUSTER_DIR   /tmp/anyshot-cluster   keys, configuration, state, logs: everything
#   CLUSTER_NODES 2      CLUSTER_CPUS 2      CLUSTER_MEGABYTES 64000      CLUSTER_GPUS 4     (the last three per node)
#   CLUSTER_PORT  17817  the controller's; nodes take the ones behind it
#
# Outside of CLUSTER_DIR there is one thing: the link /etc/slurm/slurm.conf, because a job of Snakemake's plug-in calls
# srun without SLURM_CONF. Where a file of that name exists, this host belongs to a real cluster, and nothing is done.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=${CLUSTER_DIR:-/tmp/anyshot-cluster}
nodes=${CLUSTER_NODES:-2} cpus=${CLUSTER_CPUS:-2} megabytes=${CLUSTER_MEGABYTES:-64000} gpus=${CLUSTER_GPUS:-4}
port=${CLUSTER_PORT:-17817}
link=/etc/slurm/slurm.conf
host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf

refuse() {
    echo "slurm_up: $*" >&2
    exit 1
}
# Once something runs, a failure takes everything down again.
fail() {
    echo "slurm_up: $*; see $dir/log" >&2
    CLUSTER_DIR=$dir "$here/slurm_down.sh"
    exit 1
}
# await SECONDS WHAT COMMAND...: until the command succeeds
await() {
    local limit=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" &>/dev/null; do
        ((SECONDS < limit)) || fail "$what did not happen in time"
        sleep 0.1
    done
}
[ "$(id -u)" = 0 ] || refuse "a private Slurm can only be started by root"
for program in munged munge slurmctld slurmd scontrol sinfo srun; do
    command -v "$program" >/dev/null || refuse "$program is missing: apt-get install --no-install-recommends slurm-wlm munge"
done
[[ $dir == /*/* ]] || refuse "CLUSTER_DIR is $dir, expected an absolute path below a folder"
if [ -e "$link" ] || [ -L "$link" ]; then
    [ "$(readlink "$link")" = "$SLURM_CONF" ] || refuse "$link is there and not ours: this host has a Slurm of its own"
fi
if [ -d "$dir" ] && [ ! -e "$dir/anyshot-cluster" ]; then
    refuse "$dir exists and was not made by slurm_up.sh: set CLUSTER_DIR"
fi
[ "${1:-}" != --check ] || exit 0
if [ -e "$dir/up" ] && timeout 5 scontrol ping 2>/dev/null | grep -q "is UP"; then
    echo "slurm_up: already up in $dir" >&2
    exit 0
fi
if [ -d "$dir" ]; then
    CLUSTER_DIR=$dir "$here/slurm_down.sh" --purge # what a killed test run left; old state would bring back old jobs
fi
getent hosts "$host" | grep -q "^127\.\|^::1" ||
    echo "slurm_up: $host is no loopback address here: srun listens on it while a job runs" >&2

mkdir -p /etc/slurm "$dir"
chmod 755 "$dir" # munged wants no folder that others may write to
mkdir -m 755 "$dir"/{log,run,state,gpu}
touch "$dir/anyshot-cluster"

# --- munge: an own key and socket, so that a munge of the host's stays untouched ---
mkdir -m 755 "$dir/munge"
(umask 077 && head -c 128 /dev/urandom >"$dir/munge/key")
munged --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/run/munged.pid" \
    --seed-file="$dir/munge/seed" --log-file="$dir/munge/log" --num-threads=2 </dev/null &>"$dir/log/munged" ||
    fail "munged did not start"
await 10 "munge" munge --no-input --socket="$dir/munge/socket"

# --- what a task sees, for the tests: job, step, node and devices, at its begin and end ---
cat >"$dir/note_task" <<'SCRIPT'
#!/bin/sh
printf '%s %s %s.%s %s %s\n' "${0##*/}" "$(date +%s.%N)" "$SLURM_JOB_ID" "${SLURM_STEP_ID:-batch}" "$SLURMD_NODENAME" \
    "${CUDA_VISIBLE_DEVICES:--}" >>"$(dirname "$0")/log/tasks"
SCRIPT
chmod 755 "$dir/note_task"
ln "$dir/note_task" "$dir/begin"
ln "$dir/note_task" "$dir/end"

# --- configuration ---
# *InAddrAny: listen where a name resolves to and not on every interface. config_overrides: nodes may have more than the
# host. MinJobAge: squeue must know finished jobs for longer than three of the plug-in's first checks.
cat >"$SLURM_CONF" <<CONF
ClusterName=anyshot
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog=$dir/begin
TaskEpilog=$dir/end
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobs
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=50000,bf_interval=5
SlurmdParameters=config_overrides
GresTypes=gpu
MinJobAge=3600
KillWait=3
ReturnToService=1
SlurmdTimeout=60
CONF
for number in $(seq "$nodes"); do
    mkdir -m 755 "$dir/spool-node$number"
    echo "NodeName=node$number NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + number)) CPUs=$cpus" \
        "RealMemory=$megabytes Gres=gpu:$gpus State=UNKNOWN"
done >>"$SLURM_CONF"
cat >>"$SLURM_CONF" <<CONF
PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 State=UP
PartitionName=gpu Nodes=ALL MaxTime=1-00:00:00 State=UP
CONF
# A pretended GPU is a link to a device that does nothing; its number becomes the one in CUDA_VISIBLE_DEVICES.
for number in $(seq 0 $((gpus - 1))); do ln -s /dev/null "$dir/gpu/gpu$number"; done
echo "NodeName=node[1-$nodes] Name=gpu File=$dir/gpu/gpu[0-$((gpus - 1))]" >"$dir/gres.conf"
[ -L "$link" ] || ln -s "$SLURM_CONF" "$link"

# --- daemons ---
slurmctld -c </dev/null &>"$dir/log/slurmctld.start" || fail "slurmctld did not start"
answers() { scontrol ping | grep -q "is UP"; }
await 30 "an answer of slurmctld" answers
for number in $(seq "$nodes"); do
    slurmd -N "node$number" </dev/null &>"$dir/log/slurmd-node$number.start" || fail "slurmd of node$number did not start"
done
all_idle() { [ "$(sinfo --noheader --Node --partition=main --states=idle --format=%N | wc -l)" = "$nodes" ]; }
await 30 "all nodes idle" all_idle
await 30 "a first job" timeout 20 srun --nodes=1 --ntasks=1 --gpus=1 true
touch "$dir/up"
echo "slurm_up: $nodes nodes with $cpus CPUs and $gpus pretended GPUs each, in $dir" >&2
