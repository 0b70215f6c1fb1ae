"""Weights files with changed bytes: the weights that were written, or an error that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from anyshot.data.classes import ClassTable
from anyshot.engine.checkpoints import save_state, save_weights
from anyshot.engine.model_folder import model_card
from tests.nets.test_mxnet_params import params_bytes
from tests.reliability.fuzz_cases import EDITS, Child, Edits, cases, counted, edited, note

TABLE = ClassTable.of(["background", "cat", '"; rm -rf ~"', "有轨电车"])
STATE = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3), "n": torch.tensor(7)}


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    reader = Child()
    yield reader
    reader.close()


def with_header(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A safetensors file with another header of the right length."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + content[end:]


def test_safetensors(child: Child, tmp_path: Path) -> None:
    """No checksum: numbers may be others, but as many as names and shapes say; also with a sound header."""
    path = tmp_path / "case.safetensors"
    save_file(STATE, path)
    content = path.read_bytes()
    assert set(child.read("state", path).value) == set(STATE)
    keys = st.sampled_from(["shape", "dtype", "data_offsets"])
    values = st.one_of(
        st.sampled_from([[10**12], [2**62, 4], [0, 10**12], [-1], "F99", "F64", None, {}, [4, 0]]),
        st.lists(st.integers(0, 100), max_size=3),
    )
    with counted("safetensors") as outcomes:

        @cases("safetensors")
        @given(st.one_of(EDITS, st.tuples(st.sampled_from(list(STATE)), keys, values)))
        def hold(change: Edits | tuple[str, str, Any]) -> None:
            if isinstance(change, tuple):
                name, key, value = change
                path.write_bytes(with_header(content, lambda header: header[name].update({key: value})))
            else:
                path.write_bytes(edited(content, change))
            outcome = note(outcomes, child.read("state", path))
            if outcome.message is None:
                assert sum(int(np.prod(shape)) for _, shape, _ in outcome.value.values()) <= len(content)

        hold()


def test_model_folders(child: Child, tmp_path: Path) -> None:
    """The card has a checksum of the weights: they are those that were written, or refused."""
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    described = model_card(
        system="retab", split="fold0", network="retab_segmentation", network_options={"classes": 4},
        table=TABLE, mean=(0.5,) * 3, std=(0.2,) * 3,
    )  # fmt: skip
    save_weights(weights, STATE, described)
    files = {path: path.read_bytes() for path in (weights, card)}
    good = child.read("model folder", tmp_path).value[0]
    with counted("model folder") as outcomes:

        @cases("model folder")
        @given(st.sampled_from(list(files)), EDITS)
        def hold(changed: Path, edits: Edits) -> None:
            for path, content in files.items():
                path.write_bytes(edited(content, edits) if path == changed else content)
            outcome = note(outcomes, child.read("model folder", tmp_path, [weights, card]))
            assert outcome.message is not None or outcome.value[0] == good

        hold()


def test_torch_files(child: Child, tmp_path: Path) -> None:
    """Torch's zip files have checksums, its older files none; a damaged training state is passed over."""
    zipped, older, training = (tmp_path / name for name in ("zip.pth", "older.pth", "training.pt"))
    torch.save(STATE, zipped)
    torch.save(STATE, older, _use_new_zipfile_serialization=False)
    save_state(training, {"fingerprint": "f", "model": STATE})
    readers = {zipped: "state", older: "state", training: "training state"}
    files = {path: (path.read_bytes(), child.read(reader, path).value) for path, reader in readers.items()}
    with counted("torch file") as outcomes:

        @cases("torch file")
        @given(st.sampled_from(list(readers)), EDITS)
        def hold(path: Path, edits: Edits) -> None:
            content, good = files[path]
            path.write_bytes(edited(content, edits))
            outcome = note(outcomes, child.read(readers[path], path))
            if outcome.message is None and path != older:
                assert outcome.value in (good, None) if path == training else outcome.value == good

        hold()


def test_mxnet_files(child: Child, tmp_path: Path) -> None:
    path = tmp_path / "case.params"
    arrays = {"arg:a_weight": np.ones((2, 3), np.float32), "aux:b": np.arange(4, dtype=np.float32)}
    content = params_bytes(arrays, "storage")
    path.write_bytes(content)
    assert set(child.read("params", path).value) == set(arrays)
    with counted("mxnet file") as outcomes:

        @cases("mxnet file")
        @given(EDITS)
        def hold(edits: Edits) -> None:
            path.write_bytes(edited(content, edits))
            outcome = note(outcomes, child.read("params", path))
            if outcome.message is None:
                assert sum(int(np.prod(shape)) for _, shape, _ in outcome.value.values()) <= len(content)

        hold()
