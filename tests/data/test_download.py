"""Downloads against a server on this machine, archives that try to leave their folder, SBD's MATLAB files."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from anyshot.data.download import SBD, VOC2012, Archive, fetch, unpack, with_url
from anyshot.data.images import read_mask
from anyshot.data.readers.voc import read_id_list
from anyshot.data.sbd import read_sbd_mask, write_trainaug
from anyshot.errors import DataError

from .layouts import mask_of

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8))


@dataclass
class Site:
    """A web server that serves CONTENT, and how it misbehaves."""

    url: str = ""
    ranges: bool = True
    cut_after: int | None = None  # bytes, once
    status: int | None = None
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            state.requests.append(asked)
            if state.status is not None:
                self.send_error(state.status)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            if start >= len(CONTENT):
                self.send_error(416)
                return
            body = CONTENT[start:]
            self.send_response(206 if asked and state.ranges else 200)
            self.send_header("Content-Length", str(len(body)))
            if asked and state.ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.end_headers()
            if state.cut_after is not None:
                body, state.cut_after = body[: state.cut_after], None
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/file.tar"
    yield state
    server.shutdown()
    server.server_close()


def archive(site: Site, *, size: int | None = len(CONTENT), digest: str | None = None) -> Archive:
    return Archive("file.tar", site.url, digest or hashlib.sha256(CONTENT).hexdigest(), size)


def test_file_is_fetched_verified_and_not_fetched_again(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(archive(site), tmp_path / "new", progress=lambda *now: seen.append(now))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(archive(site), tmp_path / "new") == path
    assert len(site.requests) == 1
    assert [p.name for p in path.parent.iterdir()] == ["file.tar"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_cut_connection_is_resumed(site: Site, tmp_path: Path, size: int | None) -> None:
    site.cut_after = 1_200_000
    assert fetch(archive(site, size=size), tmp_path, pause=0).read_bytes() == CONTENT
    assert site.requests == ["", "bytes=1200000-"]


def test_an_earlier_call_is_resumed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.tar.part").write_bytes(CONTENT[:1000])
    assert fetch(archive(site), tmp_path).read_bytes() == CONTENT
    assert site.requests == ["bytes=1000-"]


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    (tmp_path / "file.tar.part").write_bytes(b"x" * 1000)
    assert fetch(archive(site), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_whole_part_is_taken_as_it_is(site: Site, tmp_path: Path, size: int | None) -> None:
    (tmp_path / "file.tar.part").write_bytes(CONTENT)
    assert fetch(archive(site, size=size), tmp_path).read_bytes() == CONTENT


def test_another_file_is_refused_and_removed(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found 3000000 bytes with sha256 .* expected"):
        fetch(archive(site, digest="0" * 64), tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file.tar").write_bytes(b"short")
    with pytest.raises(DataError, match="remove it and run again"):
        fetch(archive(site), tmp_path)


def test_missing_files_fail_at_once_and_broken_servers_after_some_tries(site: Site, tmp_path: Path) -> None:
    site.status = 404
    with pytest.raises(DataError, match=r"404 .*mirror"):
        fetch(archive(site), tmp_path, pause=0)
    assert len(site.requests) == 1
    site.status = 503
    with pytest.raises(DataError, match=r"failed 3 times.*by hand"):
        fetch(archive(site), tmp_path, attempts=3, pause=0)
    assert len(site.requests) == 4


def test_only_web_addresses_and_fitting_files_are_fetched(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only http and https"):
        fetch(replace(archive(site), url="file:///etc/hostname"), tmp_path)
    with pytest.raises(DataError, match="make room"):
        fetch(archive(site, size=1 << 60), tmp_path)
    assert not site.requests


def test_a_mirror_must_hold_the_same_file() -> None:
    mirror = with_url(VOC2012, "https://example.org/voc.tar")
    assert (mirror.digest, mirror.size) == (VOC2012.digest, 1_999_639_040)
    assert with_url(SBD, None) is SBD


def make_tar(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """A tar file of files (bytes) and symbolic links (str)."""
    with tarfile.open(path, "w") as file:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                file.addfile(entry)
    return path


def test_unpacking_once(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", ("VOC/list.txt", b"1"))
    unpack(path, tmp_path / "out")
    (tmp_path / "out" / "VOC" / "list.txt").write_text("changed")
    unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / "VOC" / "list.txt").read_text() == "changed"


@pytest.mark.parametrize(
    "members",
    [
        [("../evil.txt", b"1")],
        [("a/../../evil.txt", b"1")],
        [("link", "/etc/passwd")],
        [("link", "../..")],
        [("link", ".."), ("link/evil.txt", b"1")],
    ],
)
def test_nothing_leaves_the_folder(tmp_path: Path, members: list[tuple[str, bytes | str]]) -> None:
    path = make_tar(tmp_path / "a.tar", *members)
    with pytest.raises(DataError, match="refused to unpack"):
        unpack(path, tmp_path / "out" / "inner")
    assert not list(tmp_path.rglob("evil.txt"))


def test_an_absolute_path_stays_inside(tmp_path: Path) -> None:
    unpack(make_tar(tmp_path / "a.tar", ("/evil.txt", b"1")), tmp_path / "out")
    assert (tmp_path / "out" / "evil.txt").exists()


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"a.tar: cannot be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def sbd(tmp_path: Path, masks: dict[str, np.ndarray]) -> Path:
    """SBD's layout with the given masks, all in its train.txt."""
    root = tmp_path / "dataset"
    (root / "cls").mkdir(parents=True)
    for number, mask in masks.items():
        scipy.io.savemat(root / "cls" / f"{number}.mat", {"GTcls": {"Segmentation": mask, "Boundaries": 0}})
    (root / "train.txt").write_text("".join(f"{number}\n" for number in masks))
    (root / "val.txt").write_text("")
    return root


def test_trainaug_joins_voc_and_sbd(voc: Path, tmp_path: Path) -> None:
    (voc / "SegmentationClassAug").rename(voc / "SegmentationClass")
    (voc / "ImageSets" / "Segmentation" / "train_aug.txt").unlink()
    extra = mask_of(0, 7)
    source = sbd(tmp_path, {"b1": extra, "a0": mask_of(20), "c0": mask_of(20), "b0": extra})
    assert write_trainaug(voc, source, expected=4) == 4
    assert read_id_list(voc / "ImageSets" / "Segmentation" / "trainaug.txt") == ["a0", "a1", "b0", "b1"]
    masks = voc / "SegmentationClassAug"
    assert sorted(path.stem for path in masks.iterdir()) == ["a0", "a1", "b0", "b1", "c0"]
    assert np.array_equal(read_mask(masks / "b1.png"), extra)
    assert np.array_equal(read_mask(masks / "a0.png"), mask_of(0, 1, 255)), "VOC's own mask comes first"


def test_another_number_of_ids_is_refused(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 3 ids, expected 10582"):
        write_trainaug(voc, sbd(tmp_path, {"b0": mask_of(1)}))
    assert not (voc / "ImageSets" / "Segmentation" / "trainaug.txt").exists()


def test_broken_sbd_masks_are_named(tmp_path: Path) -> None:
    root = sbd(tmp_path, {"a": mask_of(21)})
    with pytest.raises(DataError, match=r"expected ids 0\.\.20"):
        read_sbd_mask(root / "cls" / "a.mat")
    scipy.io.savemat(root / "cls" / "b.mat", {"other": 1})
    (root / "cls" / "c.mat").write_bytes(b"x" * 300)
    for name in ("b", "c"):
        with pytest.raises(DataError, match="not an SBD mask"):
            read_sbd_mask(root / "cls" / f"{name}.mat")
    with pytest.raises(DataError, match="no such SBD mask"):
        read_sbd_mask(root / "cls" / "d.mat")
