"""Fetching freely available archives: resumable, verified, unpacked without leaving the folder.

Nothing here runs unless a person asks for the download target by name.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from anyshot.data.files import write_bytes
from anyshot.errors import DataError

CHUNK: Final = 1 << 20  # bytes
RANGE_NOT_SATISFIABLE: Final = 416
PARTIAL_CONTENT: Final = 206

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Archive:
    """A file to download: its sha256 (hex) and, where known, its size in bytes."""

    name: str
    url: str
    digest: str
    size: int | None = None


# The publishers give md5 only. These are the digests under which others have known the same files for years.
VOC2012: Final = Archive(
    name="VOCtrainval_11-May-2012.tar",
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    digest="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    size=1_999_639_040,
)
SBD: Final = Archive(
    name="benchmark.tgz",
    url="http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    digest="6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
)


def fetch(
    archive: Archive,
    folder: Path,
    *,
    attempts: int = 5,
    timeout: float = 60.0,
    pause: float = 5.0,
    progress: Progress | None = None,
) -> Path:
    """Download an archive into a folder, going on where an earlier call was interrupted.

    Args:
        archive: what to fetch.
        folder: where to; the unfinished file is called `<name>.part`.
        attempts: tries after failures of the connection, each resuming the one before.
        timeout: seconds without any byte until a try is given up.
        pause: seconds between tries.
        progress: called with the bytes present and the bytes in all (None: unknown).

    Returns:
        the path of the verified file.

    Raises:
        DataError: the server cannot be reached, the disk is too small, or size or digest are wrong.
    """
    target = folder / archive.name
    if target.exists():
        return _verified(target, archive)
    if urlsplit(archive.url).scheme not in ("http", "https"):
        raise DataError(f"{archive.url}: only http and https addresses are downloaded")
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_small_disk(archive, folder)
    part = target.with_name(f"{target.name}.part")
    for attempt in range(1, attempts + 1):
        try:
            _resume(archive, part, timeout, progress)
            break
        except (OSError, http.client.HTTPException) as error:
            if attempt == attempts:
                raise DataError(
                    f"{archive.url}: download failed {attempts} times, last with: {error}."
                    f" Run again to go on from {_size_of(part)} bytes, or put the file at {target} by hand"
                ) from error
            time.sleep(pause)
    _verified(part, archive)
    part.rename(target)
    return target


def with_url(archive: Archive, url: str | None) -> Archive:
    """The same archive from a mirror (None: unchanged); digest and size stay as they are."""
    return archive if url is None else replace(archive, url=url)


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tar archive; a marker beside the result makes the second call do nothing.

    Raises DataError when the archive is broken, or holds a path that leads out of the folder, a link, or a
    device file.
    """
    marker = folder / f".{path.name}.unpacked"
    stamp = f"{path.stat().st_size} {int(path.stat().st_mtime)}".encode()
    if marker.exists() and marker.read_bytes() == stamp:
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter=_files_only)
    except tarfile.FilterError as error:
        raise DataError(f"{path}: refused to unpack: {error}. The archive is not the one expected") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: cannot be unpacked into {folder}: {error}") from error
    write_bytes(marker, stamp)


def _files_only(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Python's own filter, and no links: data sets have none, and chains of them have got past the filter."""
    if member.issym() or member.islnk():
        raise tarfile.FilterError(f"{member.name!r} is a link")
    return tarfile.data_filter(member, folder)


def _resume(archive: Archive, part: Path, timeout: float, progress: Progress | None) -> None:
    """One try: ask for what is missing and append it. Raises OSError and HTTPException, worth another try."""
    present = _size_of(part)
    if archive.size is not None and present >= archive.size:
        return
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={present}-"} if present else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            resumed = response.status == PARTIAL_CONTENT
            if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {present}-"):
                raise OSError(f"asked for bytes from {present}, got {response.headers.get('Content-Range')}")
            present = present if resumed else 0
            length = response.headers.get("Content-Length")
            total = archive.size if length is None else present + int(length)
            with part.open("ab" if resumed else "wb") as file:
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    present += len(chunk)
                    if progress is not None:
                        progress(present, total)
            # http.client gives short data without a word when the connection is cut.
            if total is not None and present < total:
                raise OSError(f"the connection ended {total - present} bytes early")
    except urllib.error.HTTPError as error:
        # The whole file is there already, or a part of some other file, which the digest tells.
        if error.code == RANGE_NOT_SATISFIABLE:
            return
        if 400 <= error.code < 500:
            raise DataError(f"{archive.url}: {error.code} {error.reason}; give a mirror's address") from error
        raise


def _verified(path: Path, archive: Archive) -> Path:
    """The path, once size and digest are as expected; a wrong file is removed before DataError is raised."""
    size = _size_of(path)
    found = _digest(path)
    if found == archive.digest and archive.size in (None, size):
        return path
    if path.suffix == ".part":
        path.unlink()
        advice = "the unfinished file was removed; run again"
    else:
        advice = "remove it and run again"
    raise DataError(
        f"{path}: found {size} bytes with sha256 {found}, expected"
        f" {archive.size or 'any number of'} bytes with {archive.digest}; {advice}"
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_small_disk(archive: Archive, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if archive.size is not None and free < archive.size:
        raise DataError(f"{folder}: {archive.name} needs {archive.size} bytes, {free} are free; make room")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
