"""Streaming over classes against the tensor of pixels x classes (larvseg.md 5.2 items 5, 6; G6, G9 d)."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anyshot.ops import class_argmax as module
from anyshot.ops.certified_argmax import certified_argmax, shortcut_pays
from anyshot.ops.class_argmax import MIB, class_argmax, top_classes
from anyshot.ops.metrics import Confusion
from anyshot.ops.pixel_taps import (
    PixelMap,
    ResizedMap,
    Window,
    WindowMap,
    axis_taps,
    image_map,
    slide,
    token_table,
)
from anyshot.ops.postprocess import label_nearest, logit_bilinear, map_to_decide
from tests.reference import class_argmax as plain

CPU = torch.device("cpu")
ORDERS = ("logits", "features")


def unit(*shape: int, dim: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=dim)


def whole(
    cells: tuple[int, int], stride: int, classes: int, channels: int = 16, seed: int = 0
) -> tuple[Tensor, Tensor, WindowMap]:
    """Features (D, h, w), classes (N, D), and the map of the image that they are of."""
    features, vectors = (
        unit(channels, *cells, dim=0, seed=seed),
        unit(classes, channels, dim=1, seed=seed + 1),
    )
    return features, vectors, image_map(cells, height=cells[0] * stride, width=cells[1] * stride)


def integers(
    cells: tuple[int, int], classes: int, channels: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor, WindowMap]:
    """Small integers at stride 4: every product and sum is exact in float32, and many classes tie."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(-2, 3, (channels, *cells), generator=generator).float()
    vectors = torch.randint(-1, 2, (classes, channels), generator=generator).float()
    vectors = vectors[torch.randint(0, max(2, classes // 3), (classes,), generator=generator)]
    return features, vectors, image_map(cells, height=4 * cells[0], width=4 * cells[1])


def equally_good(found: Tensor, logits: Tensor, allowed: float = 1e-5) -> bool:
    """Whether the labels (H, W) have the largest logit (N, H, W), up to rounding."""
    taken = logits.gather(0, found.long()[None])[0]
    return bool((logits.amax(dim=0) - taken <= allowed).all())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside and still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.largest = 0
        self._users: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs))
                 if isinstance(leaf, Tensor)}  # fmt: skip
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes():
                self._count(leaf, known=leaf.untyped_storage().data_ptr() in given)
        return made

    def _count(self, tensor: Tensor, *, known: bool) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if known and not self._users[place]:
            return  # a view of something from outside
        if not self._users[place]:
            self.live += size
            self.largest = max(self.largest, size)
            self.peak = max(self.peak, self.live)
        self._users[place] += 1
        weakref.finalize(tensor, self._drop, place, size)

    def _drop(self, place: int, size: int) -> None:
        self._users[place] -= 1
        if not self._users[place]:
            self.live -= size


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("gamma", [1.5, -0.7])
def test_is_the_argmax_of_the_normalised_logits(order: Any, gamma: float) -> None:
    """G9 d: mean, beta and the sign of gamma are the classifier's; one class's copy changes nothing."""
    features, classes, pixels = whole((5, 7), 8, classes=300)
    expected = plain.upsampled(plain.normalised(features, classes, gamma=gamma, beta=-0.25), (40, 56))
    tokens = token_table([features / plain.spread(features, classes)])
    found = class_argmax(tokens, pixels, classes, memory_mib=1, gamma=gamma, order=order)
    assert found.dtype == torch.int32
    assert equally_good(found, expected)
    assert (found == expected.argmax(dim=0)).float().mean() > 0.999


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("rows", "tile", "chunk"), [(1, 1, 1), (3, 16, 7), (64, 2**18, 1000)])
def test_ties_go_to_the_first_class(
    monkeypatch: pytest.MonkeyPatch, order: Any, rows: int, tile: int, chunk: int
) -> None:
    """Exact arithmetic, many equal classes: bands of one row and chunks of one class are no exception."""
    features, classes, pixels = integers((2, 3), classes=60)
    monkeypatch.setattr(module, "CPU_TILE", tile)
    monkeypatch.setattr(module, "CPU_CHUNK", chunk)
    monkeypatch.setattr(module.Search, "fits", lambda self, pixels, asked: asked <= rows)
    logits = plain.upsampled(plain.cosines(features, classes), (8, 12))
    ties = (logits == logits.amax(dim=0)).sum(dim=0)
    assert (ties > 1).float().mean() > 0.5
    expected = torch.from_numpy(logits.numpy().argmax(axis=0))  # numpy promises the first
    found = top_classes(token_table([features]), pixels, classes, k=3, memory_mib=4, order=order,
                        log_sum_exp=True)  # fmt: skip
    assert torch.equal(found.classes[0].long(), expected)
    best, places = logits.sort(dim=0, descending=True, stable=True)
    assert torch.equal(found.classes.long(), places[:3])
    assert torch.equal(found.scores, best[:3])
    torch.testing.assert_close(found.probabilities, logits.softmax(dim=0).gather(0, places[:3]))


@pytest.mark.parametrize("order", ORDERS)
def test_constant_features_and_gamma_zero(order: Any) -> None:
    _, classes, pixels = integers((2, 2), classes=40)
    tokens = torch.ones(4, 5)
    found = class_argmax(tokens, pixels, classes, memory_mib=1, order=order)
    assert (found == int(classes.sum(dim=1).argmax())).all()
    assert not class_argmax(tokens, pixels, classes, memory_mib=1, gamma=0.0, order=order).any()


def test_more_than_there_are_and_all_of_them() -> None:
    features, classes, pixels = integers((2, 2), classes=4)
    tokens = token_table([features])
    found = top_classes(tokens, pixels, classes, k=4, memory_mib=1)
    assert (found.classes.sort(dim=0).values == torch.arange(4)[:, None, None]).all()
    assert (found.scores.diff(dim=0) <= 0).all()
    with pytest.raises(ValueError, match="the best 5 of 4 classes"):
        top_classes(tokens, pixels, classes, k=5, memory_mib=1)


@pytest.mark.parametrize("candidates", [1, 8, 500])
@pytest.mark.parametrize("order", ORDERS)
def test_bfloat16_gives_the_labels_of_float32(order: Any, candidates: int) -> None:
    """Random unit vectors; then classes closer together than bfloat16 can tell: nearly all is redone."""
    features, classes, pixels = whole((4, 5), 8, classes=300, channels=64)
    close = torch.nn.functional.normalize(classes[:1] + 1e-3 * classes, dim=1)
    for vectors in (classes, close):
        tokens = token_table([features])
        exact = top_classes(tokens, pixels, vectors, k=2, memory_mib=8)
        found = top_classes(tokens, pixels, vectors, k=2, memory_mib=8, order=order, precision="bfloat16",
                            candidates=candidates)  # fmt: skip
        torch.testing.assert_close(found.scores, exact.scores, atol=2e-6, rtol=0)
        logits = plain.upsampled(plain.cosines(features, vectors), (32, 40))
        assert equally_good(found.classes[0], logits, 2e-6)
        assert not (found.classes[0] == found.classes[1]).any()


def test_bfloat16_ties() -> None:
    features, classes, pixels = integers((3, 3), classes=60)
    tokens = token_table([features])
    expected = class_argmax(tokens, pixels, classes, memory_mib=4)
    assert torch.equal(class_argmax(tokens, pixels, classes, memory_mib=4, precision="bfloat16"), expected)


def sizes_of_memory() -> list[Any]:
    picture = image_map((8, 9), height=128, width=144)
    corners = [(top, left) for top, _ in slide(128, side=64, stride=48)
               for left, _ in slide(144, side=64, stride=48)]  # fmt: skip
    windows = [Window(cells=(4, 4), size=(64, 64), top=top, left=left) for top, left in corners]
    sliding = WindowMap(windows, height=128, width=144)
    resized = ResizedMap(picture, height=100, width=200)
    return [
        pytest.param(picture, {}, 0.25, id="one row at a time"),
        pytest.param(picture, {}, 1.5, id="bands"),
        pytest.param(picture, {"k": 5, "log_sum_exp": True}, 1.5, id="five classes"),
        pytest.param(picture, {"order": "features"}, 1, id="features"),
        pytest.param(picture, {"precision": "bfloat16"}, 2, id="bfloat16"),
        pytest.param(picture, {"precision": "bfloat16", "order": "features"}, 2, id="bfloat16 features"),
        pytest.param(sliding, {}, 2, id="windows"),
        pytest.param(resized, {}, 2, id="resized"),
    ]


@pytest.mark.parametrize(("pixels", "options", "memory"), sizes_of_memory())
def test_memory_bound_is_held(pixels: PixelMap, options: dict[str, Any], memory: float) -> None:
    """All live tensors are counted, also inside torch's composite functions; the plain tensor has 42 MiB."""
    tokens, classes = unit(pixels.token_count, 64, dim=1, seed=0), unit(600, 64, dim=1, seed=1)
    wanted = {"k": 1, **options}
    outside = wanted["k"] * 8 * pixels.height * pixels.width + (4 * pixels.height * pixels.width)
    outside += classes.nbytes // 2 if "precision" in options else 0
    with LiveBytes() as counted:
        found = top_classes(tokens, pixels, classes, memory_mib=memory, **wanted)
    assert counted.largest > 0.02 * memory * MIB  # the counter sees the tensors that matter
    assert counted.peak <= memory * MIB + outside
    free = top_classes(tokens, pixels, classes, memory_mib=10_000, k=wanted["k"])
    torch.testing.assert_close(found.scores, free.scores, atol=2e-6, rtol=0)


def test_too_little_memory_is_an_error() -> None:
    features, classes, pixels = whole((4, 4), 16, classes=100)
    with pytest.raises(ValueError, match="one row of 64 px"):
        class_argmax(token_table([features]), pixels, classes, memory_mib=0.01)


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("gamma", [1.0, -2.0])
def test_certified_shortcut_is_exact(always: bool, gamma: float) -> None:
    """Random features, 2,000 classes, 16 kept: part of the pixels is certified, all are right (item 6)."""
    features, classes, pixels = whole((8, 8), 16, classes=2000, channels=64)
    tokens = token_table([features])
    found = certified_argmax(tokens, pixels, classes, memory_mib=32, gamma=gamma, always=always)
    logits = plain.upsampled(gamma * plain.cosines(features, classes), (128, 128))
    assert equally_good(found.labels, logits)
    assert (found.labels == logits.argmax(dim=0)).float().mean() > 0.999
    assert found.certified is not None
    assert 0.1 < found.certified < 0.9


def test_certified_shortcut_on_ties_and_smooth_features() -> None:
    """Ties are never certified away; features that change slowly are decided almost everywhere."""
    features, classes, pixels = integers((3, 4), classes=80)
    tokens = token_table([features])
    expected = class_argmax(tokens, pixels, classes, memory_mib=4)
    found = certified_argmax(tokens, pixels, classes, memory_mib=4, k=4, always=True)
    assert torch.equal(found.labels, expected)
    features, classes, pixels = whole((8, 8), 16, classes=2000, channels=64)
    features = torch.nn.functional.normalize(features[:, :1, :1] + 0.3 * features, dim=0)
    tokens = token_table([features])
    found = certified_argmax(tokens, pixels, classes, memory_mib=8, always=True)
    assert equally_good(found.labels, plain.upsampled(plain.cosines(features, classes), (128, 128)))
    assert found.certified is not None
    assert found.certified > 0.95


def test_certified_shortcut_holds_the_memory() -> None:
    features, classes, pixels = whole((8, 9), 16, classes=600, channels=64)
    tokens = token_table([features])
    with LiveBytes() as counted:
        found = certified_argmax(tokens, pixels, classes, memory_mib=2, always=True)
    assert counted.peak <= 2 * MIB + 4 * found.labels.numel()


def test_shortcut_is_left_out_where_it_does_not_pay() -> None:
    assert shortcut_pays(pixels=512 * 512, tokens=1024, classes=21_841, channels=768, k=16)
    assert not shortcut_pays(pixels=512 * 512, tokens=1024, classes=150, channels=768, k=16)
    assert not shortcut_pays(pixels=64 * 64, tokens=1024, classes=21_841, channels=768, k=16)
    features, classes, pixels = whole((4, 4), 8, classes=30)
    found = certified_argmax(token_table([features]), pixels, classes, memory_mib=4)
    assert found.certified is None
    assert equally_good(found.labels, plain.upsampled(plain.cosines(features, classes), (32, 32)))


@pytest.mark.parametrize(("cells", "size"), [(2, 4), (5, 37), (7, 7), (9, 4), (1, 6), (6, 1)])
def test_axis_taps_are_those_of_torch(cells: int, size: int) -> None:
    """And G9 b: the matrix of a doubled axis of length 2."""
    low, high, share = axis_taps(cells, size, 0, size, CPU)
    unit_vectors = torch.eye(cells)
    found = unit_vectors[low] * (1 - share)[:, None] + unit_vectors[high] * share[:, None]
    expected = torch.nn.functional.interpolate(
        unit_vectors[None], size=size, mode="linear", align_corners=False
    )
    torch.testing.assert_close(found, expected[0].T, atol=1e-5, rtol=0)
    if (cells, size) == (2, 4):
        assert found.tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]


def test_windows_are_averaged_like_logits() -> None:
    """Three windows per row that overlap, every one with its own sigma, the last shifted back inside."""
    classes = unit(50, 16, dim=1, seed=9)
    rows, columns = slide(40, side=32, stride=32), slide(80, side=32, stride=32)
    assert rows == [(0, 32), (8, 40)]
    assert columns == [(0, 32), (32, 64), (48, 80)]
    windows, maps, logits = [], [], []
    for top, bottom in rows:
        for left, right in columns:
            features = unit(16, 4, 4, dim=0, seed=top + 10 * left)
            windows.append(Window(cells=(4, 4), size=(bottom - top, right - left), top=top, left=left))
            maps.append(features / plain.spread(features, classes))
            z = plain.normalised(features, classes, gamma=1.0, beta=0.3)
            logits.append((top, left, plain.upsampled(z, (32, 32))))
    pixels = WindowMap(windows, height=40, width=80)
    assert pixels.taps == 16
    expected = plain.averaged(logits, 40, 80)
    for memory in (0.4, 16):
        found = class_argmax(token_table(maps), pixels, classes, memory_mib=memory)
        assert equally_good(found, expected)


def test_padded_image_is_cut_not_stretched() -> None:
    """Pitfall 16: 20 x 27 px padded to 32 x 32, upsampled to that, then cut."""
    features, classes = unit(16, 2, 2, dim=0, seed=0), unit(30, 16, dim=1, seed=1)
    pixels = image_map((2, 2), height=20, width=27, padded=(32, 32))
    expected = plain.upsampled(plain.cosines(features, classes), (32, 32))[:, :20, :27]
    assert equally_good(class_argmax(token_table([features]), pixels, classes, memory_mib=4), expected)
    found = certified_argmax(token_table([features]), pixels, classes, memory_mib=4, k=4, always=True)
    assert equally_good(found.labels, expected)


@pytest.mark.parametrize("size", [(50, 31), (17, 40), (32, 48)])
def test_logit_bilinear_without_the_logits(size: tuple[int, int]) -> None:
    features, classes, pixels = whole((4, 6), 8, classes=60)
    height, width = size
    z = plain.upsampled(plain.cosines(features, classes), (32, 48))
    expected = plain.upsampled(z, size)
    decided = map_to_decide(pixels, height=height, width=width, postprocess="logit_bilinear")
    for memory in (0.6, 16):
        found = class_argmax(token_table([features]), decided, classes, memory_mib=memory)
        assert equally_good(found, expected)
    assert equally_good(logit_bilinear(z, height=height, width=width), expected)
    assert map_to_decide(pixels, height=height, width=width, postprocess="label_nearest") is pixels


def test_golden_postprocessings() -> None:
    """G6, second part: class 1 where the margin is above 0.2."""
    margin = torch.tensor([[0.0, 1.0], [0.4, 0.0]])
    logits = torch.stack([torch.full_like(margin, 0.2), margin])
    assert logit_bilinear(logits, height=4, width=4).tolist() == [
        [0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]
    ]  # fmt: skip
    labels = logits.argmax(dim=0)
    assert label_nearest(labels, height=4, width=4).tolist() == [
        [0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]
    ]  # fmt: skip


def test_nearest_index_is_a_quotient_of_integers() -> None:
    """floor(dst * in / out) for every pair of lengths up to 60: 49 * (1 / 49 * 7) is below 7 in floats."""
    for length in range(1, 61):
        for size in range(1, 61):
            found = label_nearest(torch.arange(length)[None], height=1, width=size)[0]
            assert found.tolist() == [i * length // size for i in range(size)]


def test_golden_metrics() -> None:
    """G6, first part, by the house's confusion matrix."""
    truth = np.array([[0, 0, 1, 1], [0, 2, 2, 1], [255, 2, 2, 1]], dtype=np.uint8)
    prediction = np.array([[0, 1, 1, 1], [0, 2, 0, 1], [0, 2, 2, 1]], dtype=np.uint8)
    confusion = Confusion(4)
    confusion.add(truth, prediction)
    iou = confusion.iou()
    assert iou[:3].tolist() == pytest.approx([0.5, 0.8, 0.75])
    assert np.isnan(iou[3])
    assert np.nanmean(iou) == pytest.approx(0.6833333, abs=1e-7)
    recall = confusion.true_positives[:3] / confusion.truth_pixels[:3]
    assert recall.mean() == pytest.approx(0.8055556, abs=1e-7)
    accuracy = confusion.true_positives.sum() / confusion.truth_pixels.sum()
    assert accuracy == pytest.approx(0.8181818, abs=1e-7)


def test_slide_follows_the_specification() -> None:
    assert slide(500, side=512, stride=512) == [(0, 500)]
    assert slide(512, side=512, stride=512) == [(0, 512)]
    assert slide(683, side=512, stride=512) == [(0, 512), (171, 683)]
    with pytest.raises(ValueError, match="stride 513"):
        slide(600, side=512, stride=513)


def test_impossible_arguments() -> None:
    features, classes, pixels = whole((2, 2), 4, classes=5)
    tokens = token_table([features])
    with pytest.raises(ValueError, match=r"\(T, D\) and \(N, D\)"):
        class_argmax(tokens, pixels, classes[:, :3], memory_mib=1)
    with pytest.raises(ValueError, match="3 tokens, but the pixels are made of 4"):
        class_argmax(tokens[:3], pixels, classes, memory_mib=1)
    with pytest.raises(ValueError, match="the classes hold NaN"):
        class_argmax(
            tokens, pixels, classes.clone().index_fill_(0, torch.tensor([2]), torch.nan), memory_mib=1
        )
    with pytest.raises(ValueError, match="set precision"):
        top_classes(tokens, pixels, classes, k=1, memory_mib=1, precision="bfloat16", log_sum_exp=True)
    with pytest.raises(ValueError, match="log_sum_exp=True"):
        _ = top_classes(tokens, pixels, classes, k=1, memory_mib=1).probabilities
    with pytest.raises(ValueError, match="uncovered"):
        WindowMap([Window(cells=(2, 2), size=(4, 4))], height=4, width=5)
    with pytest.raises(ValueError, match="does not fit an image"):
        WindowMap([Window(cells=(2, 2), size=(4, 4), left=2)], height=4, width=5)
