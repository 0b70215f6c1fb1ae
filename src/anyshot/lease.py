"""Lease whole GPUs of one machine: one lock file per GPU, held until the last process of the job ends.

Standard library only, and before any CUDA start-up: the lease sets CUDA_VISIBLE_DEVICES. The kernel frees the
lock of a killed process. Never waits while holding, so jobs that ask for two GPUs cannot block each other.
"""

from __future__ import annotations

import dataclasses
import fcntl
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from anyshot.errors import AnyshotError, ConfigError

logger = logging.getLogger("anyshot")

VISIBLE = "CUDA_VISIBLE_DEVICES"
POOL = "ANYSHOT_GPUS"  # ids the machine lends to anyshot, separated by commas; default: all
FOLDER = "ANYSHOT_LEASE_DIR"  # where the lock files lie; must be on this machine's own disk
TIMEOUT = "ANYSHOT_LEASE_TIMEOUT"  # seconds to wait for free GPUs
HELD = "ANYSHOT_LEASED"  # set for the processes that a job starts for its further devices
DEFAULT_TIMEOUT = 24 * 3600.0
REPORT_EVERY = 60.0  # seconds between the lines that say who holds the GPUs


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One GPU: `lock` names the physical device, `word` is how CUDA_VISIBLE_DEVICES names it."""

    lock: str
    word: str


class Lease:
    """GPUs held by this process and its children until `release` or their end."""

    def __init__(self, gpus: Sequence[Gpu], descriptors: Sequence[int]) -> None:
        self.gpus = tuple(gpus)
        self._descriptors = list(descriptors)

    def __len__(self) -> int:
        return len(self.gpus)

    def release(self) -> None:
        """Give the GPUs back; the environment stays as it is."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def _folder() -> Path:
    default = Path(tempfile.gettempdir()) / f"anyshot-gpu-{os.getuid()}"
    folder = Path(os.environ.get(FOLDER) or default)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder of GPU locks {folder} ({error.strerror}); set {FOLDER}"
        ) from error
    return folder


def _nvidia_smi() -> list[tuple[str, str]]:
    """(index, uuid) of the machine's GPUs; empty without a driver."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU (\d+): .*\(UUID: (GPU-[0-9a-fA-F-]+)\)", answer.stdout, flags=re.MULTILINE)


def _words(text: str) -> list[str]:
    """The ids in a list such as `0,1`; CUDA stops reading at the first negative one."""
    words: list[str] = []
    for word in (part.strip() for part in text.split(",")):
        if not word or word.startswith("-"):
            break
        words.append(word)
    return words


def _physical(word: str, machine: Sequence[tuple[str, str]]) -> str:
    """One name per GPU, whether it was given as index (`0`), UUID or the beginning of a UUID."""
    if word.isdecimal():
        return str(int(word))
    return next((index for index, uuid in machine if uuid.startswith(word)), re.sub(r"[^\w-]", "_", word))


def pool() -> list[Gpu]:
    """The GPUs to choose from: ANYSHOT_GPUS, else nvidia-smi's, less what CUDA_VISIBLE_DEVICES leaves out."""
    configured, visible = os.environ.get(POOL), os.environ.get(VISIBLE)
    named = f"{configured or ''},{visible or ''}"
    ask = configured is None or not re.fullmatch(r"[\d,\s-]*", named)
    machine = _nvidia_smi() if ask else []
    if configured is not None:
        gpus = [Gpu(_physical(word, machine), word) for word in _words(configured)]
    else:
        gpus = [Gpu(index, index) for index, _ in machine]
    if visible is None:
        return gpus
    wanted = [Gpu(_physical(word, machine), word) for word in _words(visible)]
    if configured is None and not gpus:
        return wanted  # no nvidia-smi to ask: believe the list
    locks = {gpu.lock for gpu in gpus}
    return [gpu for gpu in wanted if gpu.lock in locks or not gpu.lock.isdecimal()]


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock of `path`, or None when another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    os.set_inheritable(descriptor, True)  # freed when the last process of the job ends
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"pid {os.getpid()}: {' '.join(sys.argv)[:200]}\n".encode(), 0)
    return descriptor


def _try_lease(count: int, gpus: Sequence[Gpu], folder: Path) -> Lease | None:
    """All `count` GPUs at once, or nothing."""
    taken: list[tuple[Gpu, int]] = []
    for gpu in random.SystemRandom().sample(list(gpus), len(gpus)):
        descriptor = _try_lock(folder / f"gpu{gpu.lock}.lock")
        if descriptor is not None:
            taken.append((gpu, descriptor))
        if len(taken) == count:
            taken.sort(key=lambda item: gpus.index(item[0]))
            return Lease([gpu for gpu, _ in taken], [descriptor for _, descriptor in taken])
    for _, descriptor in taken:
        os.close(descriptor)
    return None


def _holder(gpu: Gpu, folder: Path) -> str:
    """What the holder of a GPU wrote into its lock file, `free` when nobody holds it."""
    try:
        with (folder / f"gpu{gpu.lock}.lock").open(errors="replace") as file:
            text = file.read().strip()
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"GPU {gpu.word}: {text or 'unknown'}"
    except OSError as error:
        return f"GPU {gpu.word}: {error.strerror}"
    return f"GPU {gpu.word}: free"


def _holders(gpus: Sequence[Gpu], folder: Path) -> str:
    return "; ".join(_holder(gpu, folder) for gpu in gpus)


def lease(count: int, *, timeout: float | None = None) -> Lease:
    """Take `count` free GPUs and set CUDA_VISIBLE_DEVICES to them; wait up to `timeout` seconds.

    count 0 hides all GPUs. Inside a Slurm job nothing is done, Slurm has chosen. On a machine without GPUs
    the lease is empty. timeout: default ANYSHOT_LEASE_TIMEOUT, else 24 hours.
    Raises ConfigError when more GPUs are wanted than the pool has, AnyshotError naming the holders after
    `timeout`.
    """
    if count == 0:
        os.environ[VISIBLE] = ""
        return Lease([], [])
    if os.environ.get("SLURM_JOB_ID"):
        return Lease([Gpu(word, word) for word in _words(os.environ.get(VISIBLE, ""))], [])
    if os.environ.get(HELD) and os.environ.get("LOCAL_RANK"):
        return Lease([Gpu(word, word) for word in _words(os.environ[HELD])], [])  # the parent holds them
    gpus = pool()
    if not gpus:
        logger.info("no GPU on this machine: working on the CPU")
        return Lease([], [])
    if count > len(gpus):
        raise ConfigError(
            f"{count} GPUs are wanted, {len(gpus)} can be leased ({', '.join(gpu.word for gpu in gpus)}); ask"
            f" for fewer, or widen {POOL} or {VISIBLE}"
        )
    if timeout is None:
        timeout = _timeout_from_environment()
    held = _wait(count, gpus, timeout)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # indices as nvidia-smi counts them
    os.environ[VISIBLE] = os.environ[HELD] = ",".join(gpu.word for gpu in held.gpus)
    return held


def _timeout_from_environment() -> float:
    text = os.environ.get(TIMEOUT)
    try:
        return float(text) if text else DEFAULT_TIMEOUT
    except ValueError:
        raise ConfigError(f"{TIMEOUT} is {text!r}; give a number of seconds") from None


def _wait(count: int, gpus: Sequence[Gpu], timeout: float) -> Lease:
    folder = _folder()
    begin = time.monotonic()
    reported = begin
    while True:
        held = _try_lease(count, gpus, folder)
        if held is not None:
            return held
        now = time.monotonic()
        if now - begin >= timeout:
            raise AnyshotError(
                f"no {count} free GPU(s) among {len(gpus)} within {timeout:g} s; they are held by"
                f" {_holders(gpus, folder)}. Wait for those jobs, end them, or raise {TIMEOUT} (seconds)"
            )
        if now - reported >= REPORT_EVERY:
            reported = now
            logger.info(
                "waiting for %d free GPU(s) since %.0f s; %s", count, now - begin, _holders(gpus, folder)
            )
        time.sleep(random.SystemRandom().uniform(0.05, 0.2))
