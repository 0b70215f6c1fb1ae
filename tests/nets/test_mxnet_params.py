"""MXNet `.params` files, written here byte by byte as the specification lays them out."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from anyshot.errors import WeightsError
from anyshot.nets.backbones import build_backbone
from anyshot.nets.mxnet_params import read_params, resnet38_name
from anyshot.nets.resnet38 import ResNet38
from anyshot.options import BackboneOptions

FORMS = ["storage", "plain", "legacy"]
CODES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
WIDTH = 0.0625


def array_bytes(array: np.ndarray, form: str) -> bytes:
    if form == "legacy":
        head = struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape)
    else:
        magic = struct.pack("<Ii", 0xF993FAC9, 0) if form == "storage" else struct.pack("<I", 0xF993FAC8)
        head = magic + struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
    return head + struct.pack("<iii", 1, 0, CODES[str(array.dtype)]) + array.tobytes()


def params_bytes(arrays: dict[str, np.ndarray], form: str) -> bytes:
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays))]
    parts += [array_bytes(array, form) for array in arrays.values()]
    parts.append(struct.pack("<Q", len(arrays)))
    parts += [struct.pack("<Q", len(name)) + name.encode() for name in arrays]
    return b"".join(parts)


def mxnet_name(name: str) -> str:
    """The inverse of the reader's map, written from the specification's table for the tests."""
    layer, _, parameter = name.rpartition(".")
    suffix = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    kind = "aux" if parameter.startswith("running") else "arg"
    if "bn" not in layer:
        suffix = {"weight": "weight"}
    if "." not in layer:
        return f"{kind}:{layer}_{suffix[parameter]}"
    block, layer = layer.split(".")
    stage, _, index = block.removeprefix("b").partition("_")
    head, branch = layer.split("_")
    place = f"{stage}b{index}" if index else f"{stage}a"
    return f"{kind}:{'res' if head == 'conv' else 'bn'}{place}_{branch}_{suffix[parameter]}"


@pytest.fixture(scope="module")
def network() -> ResNet38:
    torch.manual_seed(3)
    network = ResNet38(width=WIDTH)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def arrays(network: ResNet38) -> dict[str, np.ndarray]:
    state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    arrays = {mxnet_name(name): value.numpy() for name, value in state.items()}
    return {
        **arrays,
        "arg:linear1000_weight": np.ones((10, 4), np.float32),
        "arg:linear1000_bias": np.ones(10, np.float32),
    }


@pytest.mark.parametrize("form", FORMS)
def test_arrays_come_back(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "arg:a": rng.normal(size=(2, 3, 4, 5)).astype(np.float32),
        "arg:b": rng.integers(-5, 5, (7,)).astype(np.int64),
        "aux:c": rng.normal(size=(1, 2)).astype(np.float16),
        "aux:d": rng.integers(0, 255, (3, 3)).astype(np.uint8),
    }
    path = tmp_path / "a.params"
    path.write_bytes(params_bytes(arrays, form))
    read = read_params(path)
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array)


@pytest.mark.parametrize("form", FORMS)
def test_resnet38_is_filled(
    tmp_path: Path, form: str, network: ResNet38, arrays: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "a1.params"
    path.write_bytes(params_bytes(arrays, form))
    backbone = build_backbone(BackboneOptions(name="resnet38", width=WIDTH, weights=str(path)))
    for name, value in network.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("arg:conv1a_weight", "conv1a.weight"),
        ("arg:res2a_branch2a_weight", "b2.conv_branch2a.weight"),
        ("arg:res2b2_branch2b1_weight", "b2_2.conv_branch2b1.weight"),
        ("arg:res4b5_branch2a_weight", "b4_5.conv_branch2a.weight"),
        ("arg:res5a_branch1_weight", "b5.conv_branch1.weight"),
        ("arg:bn6a_branch2b2_gamma", "b6.bn_branch2b2.weight"),
        ("aux:bn4b3_branch2a_moving_var", "b4_3.bn_branch2a.running_var"),
        ("arg:bn7_beta", "bn7.bias"),
        ("aux:bn7_moving_mean", "bn7.running_mean"),
        ("arg:linear1000_weight", None),
        ("arg:linear1000_bias", None),
    ],
)
def test_names(theirs: str, ours: str | None) -> None:
    assert resnet38_name(theirs) == ours


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    content = params_bytes({"arg:a": np.ones((2, 2), np.float32), "arg:b": np.ones(3, np.float32)}, "storage")
    path = tmp_path / "a.params"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"truncated|not an MXNet"):
            read_params(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an MXNet .params file"),
        (b"PK\x03\x04" + bytes(100), "not an MXNet .params file"),
        (params_bytes({"arg:a": np.ones(3, np.float32)}, "plain") + b"x", "goes on after"),
        (struct.pack("<QQQIi", 0x112, 0, 1, 0xF993FAC9, 1) + bytes(64), "sparse array"),
        (struct.pack("<QQQIIqiii", 0x112, 0, 1, 0xF993FAC8, 1, 2, 1, 0, 99) + bytes(64), "data type 99"),
        (struct.pack("<QQQII", 0x112, 0, 1, 0xF993FAC8, 5000) + bytes(64), "5000 axes"),
        (struct.pack("<QQQQ", 0x112, 0, 0, 3), "0 arrays but 3 names"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.params"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_params(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a\.params does not exist"):
        read_params(tmp_path / "a.params")


def test_every_key_and_shape_is_checked(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "a1.params"
    options = BackboneOptions(name="resnet38", width=WIDTH, weights=str(path))

    without = {name: array for name, array in arrays.items() if name != "aux:bn7_moving_var"}
    path.write_bytes(params_bytes(without, "storage"))
    with pytest.raises(WeightsError, match=r"1 missing: bn7\.running_var"):
        build_backbone(options)

    path.write_bytes(params_bytes({**arrays, "arg:stray_weight": np.ones(2, np.float32)}, "storage"))
    with pytest.raises(WeightsError, match=r"1 unexpected: stray\.weight"):
        build_backbone(options)

    path.write_bytes(
        params_bytes({**arrays, "arg:conv1a_weight": np.ones((4, 3, 5, 5), np.float32)}, "storage")
    )
    with pytest.raises(WeightsError, match=r"conv1a\.weight \(4, 3, 5, 5\) instead of \(4, 3, 3, 3\)"):
        build_backbone(options)
