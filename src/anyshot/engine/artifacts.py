"""Writing a file whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anyshot.errors import ArtifactError


def write_failure(path: Path, error: OSError) -> ArtifactError:
    """The error to raise when `path` could not be written: names the file, the cause and the free space."""
    try:
        free = f"{shutil.disk_usage(path.parent).free / 2**20:,.1f} MiB free"
    except OSError:
        free = "free space unknown"
    cause = error.strerror or str(error) or type(error).__name__
    return ArtifactError(
        f"cannot write {path}: {cause} ({free} in {path.parent}); free space or set `results` to another"
        " disk, then run again"
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` whose writer was killed on this machine: they would pile up."""
    prefix = f".{path.name}.{socket.gethostname()}-"
    for entry in os.scandir(path.parent):
        pid = entry.name.removeprefix(prefix).removesuffix(".tmp")
        if entry.name.startswith(prefix) and pid.isdecimal() and not _alive(int(pid)):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_failure(path, error) from error


@contextlib.contextmanager
def reserved_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes `path`'s place when the block ends without an error.

    On any error the temporary file is removed and an earlier `path` stays as it was. Errors of the block pass
    unchanged; an OSError of the renaming becomes ArtifactError, naming the file and the free space.
    """
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        yield temporary
        with _naming(path):
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """`reserved_path` for a block that only writes the file: its OSErrors become ArtifactError too."""
    with reserved_path(path) as temporary, _naming(path):
        yield temporary


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all. Raises ArtifactError."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON with sorted keys, whole or not at all. Raises ArtifactError."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def made_by(provenance: Mapping[str, str]) -> dict[str, Any]:
    """What every `miou.json` says of its making, from `Job.provenance()`."""
    return {
        "options_hash": provenance["fingerprint"],
        "versions": {name: provenance[name] for name in ("anyshot", "torch") if name in provenance},
        **provenance,
        "seconds": float(provenance["seconds"]),
    }
