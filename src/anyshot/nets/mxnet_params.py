"""Reader of MXNet's `.params` files in numpy, for ResNet-38's ImageNet weights (retab.md 2.1).

A file is a little-endian list: u64 0x112, u64 0, u64 count; then the arrays; then u64 count and the names,
each a u64 length and bytes. An array is its shape, i32 device type, i32 device id, i32 data type, raw data.
The shape is written in one of three ways:

- u32 0xF993FAC9, i32 storage type, u32 axes, i64 for each axis;
- u32 0xF993FAC8, u32 axes, i64 for each axis;
- the oldest: u32 axes, u32 for each axis.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anyshot.errors import WeightsError

LIST_MAGIC = 0x112
ARRAY_MAGIC_STORAGE = 0xF993FAC9
ARRAY_MAGIC = 0xF993FAC8
DENSE_STORAGE = 0
MAX_AXES = 32
DATA_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}

STATISTICS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


class _Cursor:
    """Reads a buffer front to back; every read checks that the file is long enough."""

    def __init__(self, *, path: Path, content: bytes) -> None:
        self.path = path
        self.content = content
        self.position = 0

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.content):
            raise WeightsError(
                f"{self.path} ends after {len(self.content)} bytes where {length} more were due at byte"
                f" {self.position}: the file is truncated or not an MXNet .params file; get it again"
            )
        taken = self.content[self.position : end]
        self.position = end
        return taken

    def numbers(self, kind: str) -> tuple[int, ...]:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))


def read_params(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an MXNet `.params` file by name (with their `arg:` or `aux:` in front).

    Raises:
        WeightsError: the file is missing, not of this format, truncated, or uses a part of the format that
            weights never use (sparse arrays, unknown data types).
    """
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist")
    cursor = _Cursor(path=path, content=path.read_bytes())
    if len(cursor.content) < 24 or cursor.numbers("QQ") != (LIST_MAGIC, 0):
        raise WeightsError(f"{path} is not an MXNet .params file: it does not start with the number 0x112")
    (count,) = cursor.numbers("Q")
    arrays = [_read_array(cursor) for _ in range(count)]
    (named,) = cursor.numbers("Q")
    if named != count:
        raise WeightsError(f"{path} has {count} arrays but {named} names: the file is damaged, get it again")
    names = [_read_name(cursor) for _ in range(named)]
    if cursor.position != len(cursor.content):
        raise WeightsError(f"{path} goes on after its last name: the file is damaged, get it again")
    if len(set(names)) != len(names):
        raise WeightsError(f"{path} names an array twice: the file is damaged, get it again")
    return dict(zip(names, arrays, strict=True))


def _read_array(cursor: _Cursor) -> np.ndarray:
    (first,) = cursor.numbers("I")
    if first == ARRAY_MAGIC_STORAGE:
        (storage,) = cursor.numbers("i")
        if storage != DENSE_STORAGE:
            raise WeightsError(
                f"{cursor.path} holds a sparse array (storage type {storage}): only dense ones are read"
            )
    modern = first in (ARRAY_MAGIC, ARRAY_MAGIC_STORAGE)
    axes = cursor.numbers("I")[0] if modern else first
    if axes > MAX_AXES:
        raise WeightsError(f"{cursor.path} has an array with {axes} axes: the file is damaged, get it again")
    shape = cursor.numbers(f"{axes}{'q' if modern else 'I'}")
    if axes == 0:
        # An empty array has nothing after its shape.
        return np.zeros(0, np.float32)
    _, _, data_type = cursor.numbers("iii")
    if data_type not in DATA_TYPES or min(shape) < 0:
        raise WeightsError(
            f"{cursor.path} has an array of data type {data_type} and shape {shape}: not readable"
        )
    dtype = np.dtype(DATA_TYPES[data_type])
    return np.frombuffer(cursor.take(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


def _read_name(cursor: _Cursor) -> str:
    (length,) = cursor.numbers("Q")
    return cursor.take(length).decode("utf-8", errors="replace")


def resnet38_name(name: str) -> str | None:
    """The state-dict name of a parameter of model A1, None for the ImageNet classifier `linear1000_*`.

    `res` becomes `conv`; block `2a` is `b2`, `2b1`, `2b2`... are `b2_1`, `b2_2`...; `bn7` stays. Names that
    follow no rule come back as they are, and the strict comparison with the network reports them.
    """
    plain = name.removeprefix("arg:").removeprefix("aux:")
    if plain.startswith("linear1000"):
        return None
    for statistic, parameter in STATISTICS.items():
        if plain.endswith(f"_{statistic}"):
            plain = f"{plain.removesuffix(f'_{statistic}')}.{parameter}"
    if plain.endswith("_weight"):
        plain = f"{plain.removesuffix('_weight')}.weight"
    layer, _, parameter = plain.rpartition(".")
    head, _, branch = layer.partition("_")
    kind = {"res": "conv", "bn": "bn"}.get(head.rstrip("0123456789ab") or "", "")
    return f"{_block(head)}.{kind}_{branch}.{parameter}" if kind and branch else plain


def _block(head: str) -> str:
    """`res2a` -> `b2`, `res4b3` -> `b4_3`, `bn6a` -> `b6`."""
    place = head.removeprefix("res").removeprefix("bn")
    stage, index = place[:1], place[2:]
    return f"b{stage}_{index}" if place[1:2] == "b" else f"b{stage}"


def read_resnet38(path: Path) -> dict[str, Tensor]:
    """The state dict of ResNet-38 from its MXNet ImageNet file; the caller checks names and shapes.

    Raises:
        WeightsError: see `read_params`; or two arrays would go to one place.
    """
    return resnet38_state(read_params(path), source=str(path))


def resnet38_state(arrays: Mapping[str, np.ndarray], *, source: str) -> dict[str, Tensor]:
    """Arrays under MXNet's names -> float32 tensors under ResNet-38's names; the classifier is dropped."""
    state: dict[str, Tensor] = {}
    for name, array in arrays.items():
        ours = resnet38_name(name)
        if ours is None:
            continue
        if ours in state:
            raise WeightsError(f"{source}: {name} and another array both stand for {ours}")
        state[ours] = torch.from_numpy(np.array(array, dtype=np.float32))
    return state
