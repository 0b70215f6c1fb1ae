"""Files with changed bytes: what was written, or an error that names the file; no crash, no hang.

What "wrong" can mean differs by format. PNG, score stores, label maps and our own weights have checksums: any
other content than the one written is wrong. JPEG, TIFF, WebP, safetensors, MXNet's and csv files have none: a
changed byte there may be another pixel, number or name, and only the form of the result can be tested.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anyshot.data.classes import ClassTable
from anyshot.data.image_index import ImageIndex, IndexWriter
from anyshot.data.image_pack import PackOptions, pack_images
from anyshot.data.images import write_mask
from anyshot.data.manifest import Manifest, Sample
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.engine.stores import DIGEST, FORMAT, StoreWriter
from tests.reliability.fuzz_cases import (
    EDITS,
    NUMBERS,
    PERCENT,
    Child,
    Edits,
    cases,
    counted,
    edited,
    note,
    same_or_refused,
)

TABLE = ClassTable.of(["background", "cat", '"; rm -rf ~"', "有轨电车"])
WIDE = ClassTable.of([f"class {number}" for number in range(300)])
RNG = np.random.default_rng(0)
PATCHES = np.kron(RNG.integers(0, 4, (6, 7)), np.ones((5, 5))).astype(np.uint8)
PIXELS = RNG.integers(0, 256, (30, 35, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    reader = Child()
    yield reader
    reader.close()


def test_the_shares_are_all_cases() -> None:
    assert sum(PERCENT.values()) == 100


def test_masks_in_png(child: Child, tmp_path: Path) -> None:
    path = tmp_path / "case.png"
    good = {}
    for wide, (table, mask) in enumerate([(TABLE, PATCHES), (WIDE, PATCHES.astype(np.uint16) * 90)]):
        write_mask(path, mask, table)
        good[bool(wide)] = (path.read_bytes(), child.read("mask", path).value)
    with counted("png mask") as outcomes:

        @cases("png mask")
        @given(st.booleans(), EDITS)
        def hold(wide: bool, edits: Edits) -> None:
            content, expected = good[wide]
            path.write_bytes(edited(content, edits))
            same_or_refused(outcomes, child.read("mask", path), expected)

        hold()


def chunks_of(content: bytes) -> list[tuple[bytes, bytes]]:
    """Kinds and contents of a PNG's chunks."""
    found, begin = [], 8
    while begin < len(content):
        length = int.from_bytes(content[begin : begin + 4])
        found.append((content[begin + 4 : begin + 8], content[begin + 8 : begin + 8 + length]))
        begin += 12 + length
    return found


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [
        len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)
        for kind, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_png_whose_header_says_something_else(child: Child, tmp_path: Path) -> None:
    """With sound checksums: sizes up to 2**32, other depths and modes, chunks missing, doubled, exchanged."""
    path = tmp_path / "case.png"
    write_mask(path, PATCHES, TABLE)
    chunks = chunks_of(path.read_bytes())
    sizes = st.one_of(st.none(), st.sampled_from(NUMBERS[:7]), st.integers(1, 100))
    places = st.integers(0, len(chunks) - 1)
    with counted("png header") as outcomes:

        @cases("png header")
        @given(
            st.sampled_from(["mask", "image"]),
            st.tuples(sizes, sizes),
            st.tuples(
                st.sampled_from([1, 2, 4, 8, 8, 8, 16, 0, 255]), st.sampled_from([3, 3, 0, 2, 4, 6, 7])
            ),
            st.tuples(st.sampled_from(["keep", "keep", "drop", "double", "exchange"]), places, places),
        )
        def hold(
            reader: str,
            size: tuple[int | None, int | None],
            form: tuple[int, int],
            order: tuple[str, int, int],
        ) -> None:
            width, height = (size[0] or 35, size[1] or 30)
            changed = [(b"IHDR", struct.pack(">IIBBBBB", width, height, *form, 0, 0, 0)), *chunks[1:]]
            what, one, other = order
            if what == "drop":
                del changed[one]
            elif what == "double":
                changed.insert(other, changed[one])
            elif what == "exchange":
                changed[one], changed[other] = changed[other], changed[one]
            path.write_bytes(png_of(changed))
            outcome = note(outcomes, child.read(reader, path))
            if outcome.message is None:
                assert outcome.value[1][:2] == [height, width]

        hold()


def test_images(child: Child, tmp_path: Path) -> None:
    """No checksum but PNG's: another pixel may be shown, but always of an image that its header describes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {}
    kinds: dict[str, dict[str, Any]] = {
        "plain.jpg": {"quality": 80}, "turned.jpg": {"exif": exif}, "progressive.jpg": {"progressive": True},
        "a.webp": {}, "a.tif": {"compression": "tiff_lzw"}, "a.png": {},
    }  # fmt: skip
    for name, options in kinds.items():
        path = tmp_path / name
        Image.fromarray(PIXELS).save(path, **options)
        files[name] = (path, path.read_bytes(), child.read("image", path).value)
    cmyk = tmp_path / "cmyk.jpg"
    Image.fromarray(PIXELS).convert("CMYK").save(cmyk)
    files["cmyk.jpg"] = (cmyk, cmyk.read_bytes(), child.read("image", cmyk).value)
    with counted("image") as outcomes:

        @cases("image")
        @given(st.sampled_from([*files, "plain.jpg", "turned.jpg", "cmyk.jpg"]), EDITS)
        def hold(name: str, edits: Edits) -> None:
            path, content, good = files[name]
            path.write_bytes(edited(content, edits))
            outcome = note(outcomes, child.read("image", path))
            if outcome.message is None:
                kind, shape, _, size = outcome.value
                assert (kind, shape) == ("uint8", [*size, 3])
                assert name != "a.png" or outcome.value == good

        hold()


def test_score_stores(child: Child, tmp_path: Path) -> None:
    path = tmp_path / "case.h5"
    attributes = {"stage": "test", "fingerprint": "f" * 64, "options": json.dumps({"size": list(range(50))})}
    with StoreWriter(path, attributes=attributes) as writer:
        for number, id in enumerate(("a", "b/c.1", "d")):
            extra = {"labels": PATCHES[:9, :9], "radius": np.int64(5), "map": RNG.random((2, 30, 35))}
            writer.add(
                id,
                [0, 7, 300][: number + 1],
                RNG.random((number + 1, 12, 14)).astype(np.float16),
                height=96,
                width=112,
                stride=8,
                extra=extra if number else {},
            )
    content, good = path.read_bytes(), child.read("store", path).value
    with counted("score store") as outcomes:

        @cases("score store")
        @given(EDITS)
        def hold(edits: Edits) -> None:
            path.write_bytes(edited(content, edits))
            same_or_refused(outcomes, child.read("store", path), good)

        hold()


STRANGE_SHAPES = [(), (0,), (2,), (3,), (2, 4, 5), (2, 4), (2, 4, 5, 6), (10**12,), (2, 10**6, 10**6)]
STRANGE_TYPES = ["u2", "f2", "f4", "f8", "i8", "S5", "text", "group", "absent", "nowhere"]


def strange(group: h5py.Group, name: str, kind: str, shape: tuple[int, ...]) -> None:
    """A member of a group as no stage writes it; large ones take no room."""
    if kind == "absent":
        return
    if kind == "nowhere":
        group[name] = h5py.SoftLink("/no/such")
    elif kind == "group":
        group.create_group(name)
    else:
        dtype = h5py.string_dtype() if kind == "text" else np.dtype(kind)
        whole = np.prod(shape, dtype=object) < 1000
        group.create_dataset(name, shape, dtype, chunks=None if whole else (1,) * len(shape))


def test_stores_of_another_form(child: Child, tmp_path: Path) -> None:
    """Sound HDF5 whose members have other types, numbers of axes or sizes, a size of 10**12 among them."""
    path = tmp_path / "case.h5"
    member = st.tuples(st.sampled_from(STRANGE_TYPES), st.sampled_from(STRANGE_SHAPES))
    sound = st.tuples(st.sampled_from(["f2", "f4"]), st.just((2, 4, 5)))
    size = st.one_of(st.just(4), st.sampled_from([*NUMBERS[:8], -1, 1.5, "8", b"8", [1, 2]]))
    with counted("strange store") as outcomes:

        @cases("strange store")
        @given(
            st.one_of(st.just(("u2", (2,))), st.just(("u2", (2,))), member),
            st.one_of(sound, member),
            st.one_of(st.just(("f4", (3,))), member),
            st.lists(size, min_size=3, max_size=3),
        )
        def hold(
            classes: tuple[str, tuple[int, ...]],
            scores: tuple[str, tuple[int, ...]],
            extra: tuple[str, tuple[int, ...]],
            sizes: list[Any],
        ) -> None:
            with h5py.File(path, "w") as file:
                file.attrs.update({"format": FORMAT, DIGEST: hashlib.sha256(b"{}").hexdigest()})
                group = file.create_group("a")
                group.attrs.update(dict(zip(("height", "width", "stride"), sizes, strict=True)))
                strange(group, "classes", *classes)
                strange(group, "scores", *scores)
                strange(group.create_group("extra"), "one", *extra)
            outcome = note(outcomes, child.read("store", path))
            if outcome.message is None:
                found = outcome.value["a"]
                assert len(found[1][1]) == 3
                assert found[0][1] == found[1][1][:1]

        hold()


def test_image_packs(child: Child, tmp_path: Path) -> None:
    """Images have checksums in a pack, its index has none: labels are as many, and what they were."""
    source, folder = tmp_path / "source", tmp_path / "pack"
    source.mkdir()
    for number in range(3):
        Image.fromarray(PIXELS[number:]).save(source / f"{number}.jpg")
    with IndexWriter(tmp_path / "index", root=source, classes=["cat", "dog"]) as writer:
        for number in range(3):
            writer.add(f"{number}.jpg".encode(), number % 2)
    pack_images(ImageIndex(tmp_path / "index"), folder, PackOptions(per_shard=2))
    files = {path: path.read_bytes() for path in (folder / "shard-00000.h5", folder / "index" / "index.json")}
    good = child.read("pack", folder).value
    assert len(good) == 3
    with counted("image pack") as outcomes:

        @cases("image pack")
        @given(st.sampled_from([0, 0, 0, 1]), EDITS)
        def hold(which: int, edits: Edits) -> None:
            for number, (path, content) in enumerate(files.items()):
                path.write_bytes(edited(content, edits) if number == which else content)
            outcome = note(outcomes, child.read("pack", folder))
            assert outcome.message is not None or outcome.value == good

        hold()


def test_label_maps(child: Child, tmp_path: Path) -> None:
    """The list has a checksum of every map, none of itself: what it gives was written, whatever its id."""
    path = tmp_path / "labels.csv"
    with LabelMapWriter(path, TABLE) as writer:
        writer.add("one", PATCHES)
        writer.add("two", PATCHES.T)
    files = {name: (tmp_path / name).read_bytes() for name in ("labels.csv", "one.png", "two.png")}
    good = list(child.read("label maps", path).value.values())
    with counted("label maps") as outcomes:

        @cases("label maps")
        @given(st.sampled_from(list(files)), EDITS)
        def hold(changed: str, edits: Edits) -> None:
            for name, content in files.items():
                (tmp_path / name).write_bytes(edited(content, edits) if name == changed else content)
            outcome = note(outcomes, child.read("label maps", path, [tmp_path]))
            assert outcome.message is not None or all(one in good for one in outcome.value.values())

        hold()


def test_manifests(child: Child, tmp_path: Path) -> None:
    """No checksum: a name may be another, but every sample has an id of its own, an image and class ids."""
    path = tmp_path / "manifest.csv"
    samples = [
        Sample(f"{name} {number}", tmp_path / f"{name}.png", tmp_path / "m.png", "train", (1, number + 2))
        for number, name in enumerate(['a,"b"', "有轨电车", "c\nd"])
    ]
    Manifest(samples).write(path)
    content = path.read_bytes()
    with counted("manifest") as outcomes:

        @cases("manifest")
        @given(EDITS)
        def hold(edits: Edits) -> None:
            path.write_bytes(edited(content, edits))
            outcome = note(outcomes, child.read("manifest", path))
            for id, image, _, subset, labels in outcome.value or []:
                assert id
                assert subset
                assert image != str(tmp_path)
                assert min(labels, default=0) >= 0

        hold()


def test_class_tables(child: Child, tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    TABLE.write(path)
    content = path.read_bytes()
    with counted("class table") as outcomes:

        @cases("class table")
        @given(EDITS)
        def hold(edits: Edits) -> None:
            path.write_bytes(edited(content, edits))
            outcome = note(outcomes, child.read("classes", path))
            rows = outcome.value or []
            assert all(row["name"] and 0 <= row["id"] < 65535 for row in rows)
            assert len({row["id"] for row in rows}) == len({row["name"] for row in rows}) == len(rows)

        hold()
