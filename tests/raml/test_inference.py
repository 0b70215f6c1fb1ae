"""The network's shapes, banded upsampling, thin masks, fusion, and merged scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anyshot.data.classes import ClassTable
from anyshot.data.split_tables import SplitTables
from anyshot.errors import ArtifactError, ConfigError, DataError
from anyshot.raml.bank import Support, describe_support, novel_class, quarter_mask, selected_channels
from anyshot.raml.evaluation import merge_counts, scored_variants
from anyshot.raml.inference import closed_prediction, decide, fuse, nearest_prototype
from anyshot.raml.networks import MetricNet, OpenMaps, OpenNet, build_metric_net, build_open_net
from anyshot.raml.options import OpenWorld

OPTIONS = {
    "backbone": {"name": "resnet18", "weights": "none", "output_stride": 16},
    "channels": 16,
    "low_channels": 8,
    "known": 5,
    "meta": 3,
    "activation": "sigmoid",
    "hidden": 12,
    "embedding": 6,
}


@pytest.fixture(scope="module")
def model() -> MetricNet:
    torch.manual_seed(0)
    return build_metric_net(OPTIONS, load=False).eval()


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (33, 47)])
def test_shapes_and_ranges(size: tuple[int, int], model: MetricNet) -> None:
    with torch.no_grad():
        maps = model(torch.randn(2, 3, *size))
    cells = tuple(-(-side // 4) for side in size)
    assert maps.logits.shape == (2, 5, *cells)
    assert maps.channels.shape == (2, 8, *cells)
    assert maps.feature.shape == (2, 16, *cells)
    assert maps.feature.min() >= 0
    assert 0 <= maps.channels.min() <= maps.channels.max() <= 1


def test_softmax_channels_sum_to_one() -> None:
    net = build_open_net({**OPTIONS, "activation": "softmax"}, load=False).eval()
    with torch.no_grad():
        channels = net(torch.randn(1, 3, 32, 32)).channels
    assert torch.allclose(channels.sum(dim=1), torch.ones(1, 8, 8), atol=1e-6)


def test_a_backbone_without_a_quarter_map_is_an_error() -> None:
    backbone = {**OPTIONS["backbone"], "name": "vit_tiny_patch16_224"}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="DeepLabV3"):
        build_open_net({**OPTIONS, "backbone": backbone}, load=False)


def test_the_metric_keeps_the_network_frozen(model: MetricNet) -> None:
    model.train()
    assert not any(module.training for module in model.network.modules())
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert model.embedding.training
    model.eval()


def maps_of(logits: torch.Tensor, channels: torch.Tensor, feature: torch.Tensor) -> OpenMaps:
    return OpenMaps(logits[None], channels[None], feature[None])


@pytest.mark.parametrize(("height", "width"), [(512, 96), (300, 64), (301, 77)])
def test_bands_give_the_same_map(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(1)
    rows, columns = -(-height // 4), -(-width // 4)
    logits = torch.randn(5, rows, columns, generator=generator)
    maps = maps_of(logits, torch.zeros(8, rows, columns), torch.zeros(16, rows, columns))
    full = F.interpolate(logits[None], size=(height, width), mode="bilinear", align_corners=False)
    expected = full[0].argmax(dim=0).numpy()
    found = closed_prediction(maps, height, width, band=64)
    assert found.shape == expected.shape
    assert (found != expected).mean() < 1e-4  # rounding may turn a tie


def test_a_thin_mask_takes_the_cells_it_touches() -> None:
    mask = np.zeros((16, 16), dtype=bool)
    mask[5, 1:4] = True  # meets no pixel (4i, 4j)
    cells = quarter_mask(mask, 4, 4)
    assert cells.sum() == 1
    assert cells[1, 0]
    assert not quarter_mask(np.zeros((16, 16), dtype=bool), 4, 4).any()
    mask[4, 4] = True
    assert quarter_mask(mask, 4, 4).sum() == 1  # now a sampled pixel is met: sampling alone counts


def test_an_empty_support_mask_is_an_error(model: MetricNet) -> None:
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 32, 32))
    with pytest.raises(DataError, match=r"a\.png, tram: the mask holds no pixel"):
        describe_support(model, maps, np.zeros((32, 32), dtype=bool), hit_threshold=0.5, what="a.png, tram")


def test_no_bank_is_the_closed_set(model: MetricNet) -> None:
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 64, 64))
        closed = closed_prediction(maps, 64, 64)
        found = decide(model, maps, [], height=64, width=64, hit_ratio=0.15, options=OpenWorld())
    assert found.regions.count == 0
    assert (fuse(closed, found, [], reject_known=False) == closed).all()
    assert (nearest_prototype(maps, [], closed, [], threshold=-1.5) == closed).all()


def test_the_selection_is_one_for_all_classes(model: MetricNet) -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[8:24, 8:24] = True
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 32, 32))
        support = describe_support(model, maps, mask, hit_threshold=0.5, what="a")
    first = novel_class(7, "a", ["x"], [support])
    for ratio, expected in ((0.0, first.hits[0] > 0), (1.0, torch.zeros(3, dtype=torch.bool))):
        assert (selected_channels([first, first], ratio, 3) == expected).all()
    assert support.embedding.norm().item() == pytest.approx(1, abs=1e-5)


def test_a_class_without_a_channel_takes_the_best_on_demand() -> None:
    given = {"embedding": torch.ones(2), "logits": torch.ones(2)}
    supports = [Support(hits=torch.tensor(row), **given) for row in ([0.10, 0.05, 0.0], [0.0, 0.12, 0.0])]
    dark = novel_class(7, "a", ["x", "y"], supports)
    assert dark.channels(0.15).tolist() == [False, False, False]
    assert dark.channels(0.15, best=True).tolist() == [False, True, False]
    assert dark.channels(0.11, best=True).tolist() == dark.channels(0.11).tolist() == [False, True, False]
    assert selected_channels([dark], 0.15, 3, best=True).tolist() == [False, True, False]
    unlit = novel_class(8, "b", ["x"], [Support(hits=torch.zeros(3), **given)])
    assert not unlit.channels(0.15, best=True).any()


def test_scores_of_a_hand_made_matrix() -> None:
    """Three known classes and one novel; two draws of which one finds it wholly, the other not at all."""
    tables = SplitTables.make(ClassTable.of(["a", "b", "c", "d"]), novel=["d"])
    good = np.zeros((5, 5), dtype=int)
    np.fill_diagonal(good, [10, 10, 10, 10, 0])
    bad = good.copy()
    bad[3, 3], bad[3, 0] = 0, 10
    part = {
        "closed_set": bad.tolist(),
        "banks": [
            {"variant": "raml", "shots": 5, "support_seed": seed, "matrix": matrix.tolist()}
            for seed, matrix in ((0, good), (1, bad))
        ],
    }
    rows = {row["variant"]: row for row in scored_variants(merge_counts([part, part]), tables)}
    assert rows["closed_set"]["mean"]["novel"] == 0
    assert rows["closed_set"]["spread"]["novel"] is None
    assert rows["raml"]["mean"]["novel"] == pytest.approx(0.5)
    assert rows["raml"]["spread"]["novel"] == pytest.approx(0.5**0.5)
    assert rows["raml"]["mean"]["base"] == pytest.approx((1 + (0.5 + 1 + 1) / 3) / 2)
    assert rows["raml"]["classes"][3] == {"id": 3, "name": "d", "role": "novel", "iou": 0.5, "pixels": 20}
    other = {**part, "banks": part["banks"][:1]}
    with pytest.raises(ArtifactError, match="different things: run raml_open_world"):
        merge_counts([part, other])


def test_the_closed_net_has_its_heads_where_stated() -> None:
    net = build_open_net(OPTIONS, load=False)
    assert isinstance(net, OpenNet)
    assert sum(p.numel() for p in net.meta_head.parameters()) == 5 * 8 + 8
