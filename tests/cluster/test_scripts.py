"""The scripts that start the private Slurm: once, on the loopback device alone, never over another Slurm."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.cluster.cluster import FOLDER, HERE, PROGRAMS, Cluster, missing

LISTENING = "0A"  # the state TCP_LISTEN in /proc/net/tcp
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def slurm_up(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HERE / "slurm_up.sh", *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=180,
    )


def daemons() -> dict[str, int]:
    """The daemons' process ids, by the name of their file."""
    return {path.stem: int(path.read_text()) for path in (FOLDER / "run").glob("*.pid")}


def listens_on(pid: int) -> list[Address]:
    """The addresses on which a process takes connections by TCP, from /proc."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    own = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    found: list[Address] = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENING and inode in own:
                words = bytes.fromhex(local.split(":")[0])  # words of 32 bits, their bytes turned round
                turned = b"".join(words[start : start + 4][::-1] for start in range(0, len(words), 4))
                found.append(ipaddress.ip_address(turned))
    return found


def test_the_search_finds_a_socket_that_listens() -> None:
    with socket.create_server(("127.0.0.2", 0)), socket.create_server(("127.0.0.3", 0)):
        assert {str(one) for one in listens_on(os.getpid())} >= {"127.0.0.2", "127.0.0.3"}


def test_without_programs_the_reason_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    said = missing()
    assert "apt-get install" in said
    for name in PROGRAMS:
        assert name in said


def test_the_daemons_listen_on_the_loopback_device_alone(cluster: Cluster) -> None:
    found = {name: listens_on(pid) for name, pid in daemons().items()}
    assert set(found) == {"munged", "slurmctld", "slurmd-node1", "slurmd-node2"}
    assert all(found[name] for name in found if name != "munged")  # munge has a socket of the file system
    assert {name: [one for one in found[name] if not one.is_loopback] for name in found} == {
        name: [] for name in found
    }


def test_a_second_start_changes_nothing(cluster: Cluster) -> None:
    before = daemons()
    done = slurm_up()
    assert done.returncode == 0, done.stderr
    assert "already up" in done.stderr
    assert daemons() == before
    assert missing() == ""


def test_another_s_configuration_is_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    """To a cluster of another folder, the link of this one is another's."""
    link = os.readlink("/etc/slurm/slurm.conf")
    for words in (["--check"], []):
        done = slurm_up(*words, CLUSTER_DIR=str(tmp_path / "other"))
        assert done.returncode == 1
        assert "/etc/slurm/slurm.conf is there and not ours" in done.stderr
    assert os.readlink("/etc/slurm/slurm.conf") == link
    assert not (tmp_path / "other").exists()
