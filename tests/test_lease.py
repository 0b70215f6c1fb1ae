import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyshot import lease as module
from anyshot.errors import AnyshotError, ConfigError
from anyshot.lease import lease, pool
from tests.pretended_gpus import pretended_gpus

HOLDER = """
import sys, time
from pathlib import Path
from anyshot.lease import lease
held = lease(int(sys.argv[1]), timeout=600)
begin = time.time()
time.sleep(float(sys.argv[2]))
with open(sys.argv[3], "a") as file:
    for gpu in held.gpus:
        file.write(f"{gpu.word} {begin} {time.time()}\\n")
"""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path) -> Iterator[None]:
    """Four pretended GPUs, locks in a folder of the test."""
    with pretended_gpus("0123", tmp_path / "locks"):
        yield


def holder(count: int, seconds: float, record: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", HOLDER, str(count), str(seconds), str(record)])


def wait_for_locks(folder: Path, count: int) -> None:
    end = time.monotonic() + 300
    while sum(bool(file.read_text()) for file in folder.glob("*.lock")) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_many_jobs_never_share_a_gpu(tmp_path: Path) -> None:
    record = tmp_path / "record"
    jobs = [holder(2 if number % 6 == 0 else 1, 0.05, record) for number in range(24)]
    assert [job.wait(timeout=600) for job in jobs] == [0] * 24
    spans: dict[str, list[tuple[float, float]]] = {}
    for line in record.read_text().splitlines():
        word, begin, end = line.split()
        spans.setdefault(word, []).append((float(begin), float(end)))
    assert sum(map(len, spans.values())) == 28
    assert set(spans) <= set("0123")
    for times in spans.values():
        times.sort()
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(times))


def test_killed_holder_frees_its_gpus(tmp_path: Path) -> None:
    job = holder(4, 600, tmp_path / "record")
    wait_for_locks(tmp_path / "locks", 4)
    with pytest.raises(AnyshotError, match=rf"no 1 free GPU.*among 4 within 0 s.*GPU 0: pid {job.pid}"):
        lease(1, timeout=0)
    job.send_signal(signal.SIGKILL)
    job.wait()
    held = lease(4, timeout=1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    held.release()


def test_a_child_keeps_the_lock_of_a_killed_parent() -> None:
    code = (
        "import subprocess, sys; from anyshot.lease import lease; held = lease(4);"
        "child = subprocess.Popen(['sleep', '60'], close_fds=False);"
        "print(child.pid, flush=True); child.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait()
        with pytest.raises(AnyshotError, match="no 1 free"):
            lease(1, timeout=0)
    finally:
        os.kill(child, signal.SIGKILL)
    lease(1, timeout=5).release()


def test_leases_are_disjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    first = lease(3, timeout=0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    second = lease(1, timeout=0)
    assert len({gpu.lock for gpu in (*first.gpus, *second.gpus)}) == 4
    assert os.environ["CUDA_VISIBLE_DEVICES"] == second.gpus[0].word
    second.release()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(AnyshotError, match="no 2 free") as caught:
        lease(2, timeout=0)
    assert f"GPU {second.gpus[0].word}: free" in str(caught.value)
    first.release()


def test_zero_hides_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert len(lease(0)) == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_slurm_has_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert [gpu.word for gpu in lease(1).gpus] == ["3"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert not (tmp_path / "locks").exists()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("1,3", ["1", "3"]), ("3,1", ["3", "1"]), ("", []), ("-1", []), ("2,-1,3", ["2"]), ("7,0", ["0"])],
)
def test_user_restricts_the_pool(monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.word for gpu in pool()] == expected


def test_one_lock_per_physical_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index and a UUID of the same GPU meet at the same lock."""
    monkeypatch.delenv(module.POOL)
    monkeypatch.setattr(module, "_nvidia_smi", lambda: [("0", "GPU-aa-11"), ("1", "GPU-bb-22")])
    assert [(gpu.lock, gpu.word) for gpu in pool()] == [("0", "0"), ("1", "1")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb")
    assert [(gpu.lock, gpu.word) for gpu in pool()] == [("1", "GPU-bb")]
    held = lease(1, timeout=0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(AnyshotError, match="no 1 free"):
        lease(1, timeout=0)
    held.release()


def test_nvidia_smi_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-0a-1b)'\necho '  MIG 1g (UUID: MIG-3)'\n"
        "echo 'GPU 1: NVIDIA H200 (UUID: GPU-2c-3d)'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert module._nvidia_smi() == [("0", "GPU-0a-1b"), ("1", "GPU-2c-3d")]


def test_machine_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.POOL)
    monkeypatch.setattr(module, "_nvidia_smi", list)
    assert len(lease(2)) == 0


def test_more_than_the_pool_has() -> None:
    with pytest.raises(ConfigError, match=r"5 GPUs are wanted, 4 can be leased \(0, 1, 2, 3\)"):
        lease(5)


def test_further_rank_of_a_job_uses_the_lease_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    held = lease(2, timeout=0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [gpu.word for gpu in lease(2, timeout=0).gpus] == [gpu.word for gpu in held.gpus]
    held.release()


def test_timeout_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.TIMEOUT, "soon")
    with pytest.raises(ConfigError, match="give a number of seconds"):
        lease(1)
