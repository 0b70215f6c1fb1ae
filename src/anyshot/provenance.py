"""What a result was made from: hashes of inputs, versions, the commit of the code."""

from __future__ import annotations

import functools
import hashlib
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from anyshot.errors import ArtifactError


def content_hash(path: Path) -> str:
    """sha256 of a file, or of the names and contents below a folder; of a score store its fingerprint.

    Raises ArtifactError when the path does not exist or cannot be read.
    """
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            parts = [f"{file.relative_to(path).as_posix()} {content_hash(file)}" for file in files]
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()
        if path.suffix == ".h5":
            from anyshot.engine.stores import store_fingerprint

            known = store_fingerprint(path)
            if known is not None:
                return known
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"input {path} cannot be read: {error.strerror}") from error


def installed_version(package: str) -> str:
    """The version of an installed package, empty when it is not there; does not import it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@functools.cache
def commit() -> str:
    """The commit of the checkout this package runs from, with `-dirty` when changed; empty outside of one."""
    package = Path(__file__).resolve().parent
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if package.parent.name != "src" or not (package.parent.parent / ".git").exists():
        return ""  # installed as a wheel: a checkout around it is another project's
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
