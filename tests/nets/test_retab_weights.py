"""Released PSA and RETAB checkpoints into our networks and back, on a narrow ResNet-38."""

from pathlib import Path

import pytest
import torch
from torch import nn

from anyshot.errors import WeightsError
from anyshot.nets.resnet38 import ResNet38
from anyshot.retab.networks import AffinityNet, BoundaryNet, ClassificationNet, SegmentationNet
from anyshot.retab.weights import (
    Kind,
    expected_shapes,
    export_checkpoint,
    import_checkpoint,
    official_name,
    our_name,
)

WIDTH = 0.0625
KINDS: list[Kind] = ["classifier", "affinity", "boundary", "segmentation"]
OFFICIAL_HEADS = {
    "classifier": ["fc8.weight"],
    "affinity": ["f8_3.weight", "f8_4.weight", "f8_5.weight", "f9.weight"],
    "boundary": ["f8_3.weight", "f8_4.weight", "f8_5.weight", "f9.weight"],
    "segmentation": [f"fc8_seg_conv{k}.{what}" for k in (1, 2) for what in ("weight", "bias")],
}


def our_network(kind: Kind) -> nn.Module:
    backbone = ResNet38(width=WIDTH)
    if kind == "classifier":
        return ClassificationNet(backbone=backbone, classes=20)
    if kind == "segmentation":
        return SegmentationNet(backbone=backbone, classes=21)
    network = AffinityNet if kind == "affinity" else BoundaryNet
    return network(backbone=backbone, channels=(64, 128, 256))


def official_state(kind: Kind, *, counters: bool = True) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    shapes = expected_shapes(kind, width=WIDTH)
    return {
        name: torch.tensor(5) if shape == () else torch.rand([20 if side == -1 else side for side in shape])
        for name, shape in shapes.items()
        if counters or shape != ()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_official_names(kind: Kind) -> None:
    heads = [name for name in expected_shapes(kind) if name.startswith("f")]
    assert heads == OFFICIAL_HEADS[kind]
    for name in expected_shapes(kind, width=WIDTH):
        assert official_name(kind, our_name(kind, name)) == name


@pytest.mark.parametrize(
    ("kind", "numbers"), [("classifier", 81_920), ("boundary", 1_212_864), ("affinity", 1_413_120)]
)
def test_heads_of_released_files_have_the_published_sizes(kind: Kind, numbers: int) -> None:
    shapes = [shape for name, shape in expected_shapes(kind).items() if name in OFFICIAL_HEADS[kind]]
    assert (
        sum(torch.Size([20 if side == -1 else side for side in shape]).numel() for shape in shapes) == numbers
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counters", [True, False])
def test_checkpoint_fits_our_network_exactly_and_comes_back(
    tmp_path: Path, kind: Kind, counters: bool
) -> None:
    theirs = official_state(kind, counters=counters)
    path = tmp_path / "official.pth"
    torch.save({f"module.{name}": value for name, value in theirs.items()}, path)
    state, report = import_checkpoint(kind, path, width=WIDTH)
    network = our_network(kind)
    if kind == "segmentation":
        network = SegmentationNet(backbone=ResNet38(width=WIDTH), classes=20)
    network.load_state_dict(state, strict=True)
    assert report.tensors == len(theirs)
    assert report.classes == (20 if kind in ("classifier", "segmentation") else None)
    assert bool(report.added) != counters
    assert f"{kind} network" in report.text()
    back = export_checkpoint(kind, network.state_dict(), width=WIDTH)
    for name, value in theirs.items():
        assert torch.equal(back[name], value), name


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "affinity.pth"
    torch.save(official_state("affinity"), path)
    with pytest.raises(
        WeightsError, match=r"no classifier network.*missing: fc8\.weight; 4 unexpected: f8_3\.weight"
    ):
        import_checkpoint("classifier", path, width=WIDTH)
    with pytest.raises(
        WeightsError, match=r"no boundary network.*f9\.weight \(448, 448, 1, 1\) instead of \(1, 448"
    ):
        import_checkpoint("boundary", path, width=WIDTH)
    with pytest.raises(WeightsError, match=r"conv1a\.weight \(4, 3, 3, 3\) instead of \(64, 3, 3, 3\)"):
        import_checkpoint("affinity", path)


def test_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="allowed are classifier, affinity, boundary, segmentation"):
        import_checkpoint("cam", tmp_path / "a.pth")  # type: ignore[arg-type]


def test_export_refuses_another_networks_state() -> None:
    with pytest.raises(WeightsError, match="no segmentation network"):
        export_checkpoint("segmentation", our_network("affinity").state_dict(), width=WIDTH)
