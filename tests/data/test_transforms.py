"""Joint transforms: crop geometry, padding, contours, colour; images and maps must move together."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anyshot.data.transforms import (
    CropWindow,
    colour_jitter,
    corner_crop,
    draw_contour,
    long_side_size,
    normalise,
    random_crop,
    resize_image,
    resize_labels,
    ssd_jitter,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDES = st.integers(1, 40)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def coordinates(height: int, width: int) -> np.ndarray:
    """A map in which every pixel has its own value, from 1."""
    return np.arange(1, height * width + 1).reshape(height, width)


def length(part: slice) -> int:
    return part.stop - part.start


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, size=SIDES, seed=st.integers(0, 10**6), corner=st.booleans())
def test_crop_geometry(height: int, width: int, size: int, seed: int, corner: bool) -> None:
    """As much of the image as fits is in the canvas, unmoved within itself, and nothing lies outside."""
    window = (corner_crop if corner else random_crop)(height, width, size, generator(seed))
    for side, source, target in zip((height, width), window.source, window.target, strict=True):
        assert length(source) == length(target) == min(side, size)
        assert 0 <= source.start <= source.stop <= side
        assert 0 <= target.start <= target.stop <= size
        if corner:
            assert target.start == 0
    rows, columns = window.source
    assert window.window == (rows.start, rows.stop, columns.start, columns.stop)

    image = coordinates(height, width)
    canvas = window.apply(image)
    assert canvas.shape == (size, size)
    assert (canvas[window.target] == image[window.source]).all()
    assert (canvas > 0).sum() == min(height, size) * min(width, size)


@settings(max_examples=25, deadline=None)
@given(height=SIDES, width=SIDES, size=SIDES, seed=st.integers(0, 10**6))
def test_image_label_and_scores_are_cropped_alike(height: int, width: int, size: int, seed: int) -> None:
    window = random_crop(height, width, size, generator(seed))
    label = coordinates(height, width).astype(np.uint16)
    scores = np.stack([label, 2 * label]).astype(np.float32)
    image = np.stack([label % 256] * 3, axis=2).astype(np.uint8)
    cropped = window.apply(label, fill=0)
    assert (window.apply(scores) == np.stack([cropped, 2 * cropped])).all()
    assert (window.apply(image)[..., 1] == cropped % 256).all()


def test_every_position_is_equally_likely() -> None:
    """Offsets of the crop and of a small image in its canvas are uniform, ends included."""
    for side, size in ((12, 8), (8, 12)):
        windows = [random_crop(side, side, size, generator(seed)) for seed in range(400)]
        parts = [(w.source if side > size else w.target)[0].start for w in windows]
        counts = np.bincount(parts, minlength=5)
        assert len(counts) == 5
        assert counts.min() > 40
    corners = {corner_crop(12, 3, 8, generator(seed)).source[0].start for seed in range(200)}
    assert corners == {0, 1, 2, 3, 4}


def test_padding_policies() -> None:
    """P3: the image's padding has the given colour, the labels' the given class."""
    window = CropWindow(6, (slice(0, 2), slice(0, 3)), (slice(1, 3), slice(2, 5)))
    image, labels = np.full((2, 3, 3), 9, dtype=np.uint8), np.full((2, 3), 7, dtype=np.uint8)
    outside = np.ones((6, 6), dtype=bool)
    outside[window.target] = False
    assert (window.apply(image, fill=[124, 116, 104])[outside] == [124, 116, 104]).all()
    assert (window.apply(image)[outside] == 0).all()
    assert (window.apply(labels, fill=255)[outside] == 255).all()
    assert (window.apply(labels, fill=255)[~outside] == 7).all()
    assert (window.apply(np.ones((4, 2, 3), dtype=np.float32))[:, outside] == 0).all()


def test_same_generator_same_result() -> None:
    image = generator(1).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)
    for _ in range(2):
        first, second = generator(5), generator(5)
        strengths = (0.3, 0.3, 0.3, 0.1)
        assert (colour_jitter(image, strengths, first) == colour_jitter(image, strengths, second)).all()
        assert random_crop(20, 30, 8, first) == random_crop(20, 30, 8, second)


def test_normalise() -> None:
    image = generator().integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
    pixels = normalise(image, mean=MEAN, std=STD)
    assert pixels.dtype == torch.float32
    expected = (image / 255 - np.array(MEAN)) / np.array(STD)
    assert pixels.numpy().transpose(1, 2, 0) == pytest.approx(expected, abs=1e-6)
    mean_colour = np.round(255 * np.array(MEAN)).astype(np.uint8)[None, None]
    assert normalise(mean_colour, mean=MEAN, std=STD).abs().max() < 0.5 / 255 / 0.22


@pytest.mark.parametrize("bicubic", [True, False])
def test_resize_image_is_pillows(bicubic: bool) -> None:
    image = generator().integers(0, 256, size=(11, 17, 3), dtype=np.uint8)
    kind = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    for height, width in ((6, 8), (22, 34), (11, 17)):
        resized = resize_image(image, height, width, bicubic=bicubic)
        assert (resized == np.asarray(Image.fromarray(image).resize((width, height), kind))).all()


@settings(max_examples=30, deadline=None)
@given(height=SIDES, width=SIDES, rows=SIDES, columns=SIDES, seed=st.integers(0, 10**6))
def test_resize_labels(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    """No value is invented, the own size is the identity, and Pillow's nearest agrees on whole factors."""
    labels = generator(seed).choice(np.array([0, 3, 20, 255], dtype=np.uint8), size=(height, width))
    resized = resize_labels(labels, rows, columns)
    assert resized.shape == (rows, columns)
    assert resized.dtype == np.uint8
    assert set(np.unique(resized)) <= set(np.unique(labels))
    assert (resize_labels(labels, height, width) == labels).all()
    doubled = resize_labels(labels, 2 * height, 2 * width)
    assert (doubled == labels.repeat(2, axis=0).repeat(2, axis=1)).all()
    nearest = Image.fromarray(labels).resize((3 * width, 3 * height), Image.Resampling.NEAREST)
    assert (resize_labels(labels, 3 * height, 3 * width) == np.asarray(nearest)).all()
    assert (resize_labels(labels[:, ::-1], height, 2 * width)[:, ::-1] == doubled[::2]).all()


@pytest.mark.parametrize(
    ("size", "long_side", "expected"),
    [((375, 500), 448, (336, 448)), ((500, 333), 256, (256, 170)), ((1, 500), 256, (1, 256))],
)
def test_long_side(size: tuple[int, int], long_side: int, expected: tuple[int, int]) -> None:
    assert long_side_size(*size, long_side) == expected


STRIPE = np.zeros((9, 16), dtype=np.uint8)
STRIPE[:, 8:] = 5


@pytest.mark.parametrize("width", [1, 3, 5])
def test_contour_width(width: int) -> None:
    """P1: a contour of `width` px along the change of label, the rest untouched."""
    drawn = draw_contour(STRIPE, width=width)
    columns = np.flatnonzero((drawn == 255).all(axis=0))
    assert len(columns) == width
    assert 8 in columns
    assert columns.mean() == 8
    assert (drawn[:, [c for c in range(16) if c not in columns]] != 255).all()
    kept = drawn != 255
    assert (drawn[kept] == STRIPE[kept]).all()
    assert (STRIPE != 255).all()  # the mask itself is not painted on


def test_contour_in_all_directions_and_types() -> None:
    turned = draw_contour(STRIPE.T.copy(), width=3)
    assert (turned == draw_contour(STRIPE, width=3).T).all()
    wide = draw_contour(STRIPE.astype(np.uint16), width=3, ignore=65535)
    assert wide.dtype == np.uint16
    assert (wide == 65535).sum() == 27
    assert (draw_contour(np.full((4, 5), 3, dtype=np.uint8), width=5) == 3).all()


def test_jitter_of_strength_zero_changes_nothing() -> None:
    image = generator().integers(0, 256, size=(8, 9, 3), dtype=np.uint8)
    assert (colour_jitter(image, (0, 0, 0, 0), generator()) == image).all()


@pytest.mark.parametrize(
    "strengths", [(0.3, 0, 0, 0), (0, 0.3, 0, 0), (0, 0, 0.3, 0), (0, 0, 0, 0.1), (0.3, 0.3, 0.3, 0.1)]
)
def test_jitter(strengths: tuple[float, ...]) -> None:
    image = generator().integers(0, 256, size=(16, 16, 3), dtype=np.uint8)
    before = image.copy()
    results = [colour_jitter(image, strengths, generator(seed)) for seed in range(4)]
    assert (image == before).all()
    for result in results:
        assert result.shape == image.shape
        assert result.dtype == np.uint8
        assert (result != image).any()
    assert (results[0] != results[1]).any()


def test_jitter_of_one_kind() -> None:
    """Each of the four does what its name says."""
    image = generator().integers(60, 180, size=(16, 16, 3), dtype=np.uint8)
    grey = np.repeat(image[..., :1], 3, axis=2)
    bright = colour_jitter(grey, (0.3, 0, 0, 0), generator(1)).astype(float)
    ratio = bright / grey
    assert ratio.std() < 0.02
    assert 0.69 < ratio.mean() < 1.31
    contrast = colour_jitter(grey, (0, 0.3, 0, 0), generator(1)).astype(float)
    assert contrast.mean() == pytest.approx(grey.mean(), abs=1.5)
    # grey has no hue and no saturation to change
    assert np.abs(colour_jitter(grey, (0, 0, 0.3, 0), generator(1)).astype(int) - grey).max() <= 1
    assert np.abs(colour_jitter(grey, (0, 0, 0, 0.1), generator(1)).astype(int) - grey).max() <= 1
    red = np.full((2, 2, 3), (200, 10, 10), dtype=np.uint8)
    turned = [colour_jitter(red, (0, 0, 0, 0.5), generator(seed))[0, 0] for seed in range(30)]
    assert all(int(colour.max()) == 200 for colour in turned)
    assert len({int(colour.argmax()) for colour in turned}) == 3


def test_ssd_jitter_stays_in_its_ranges_and_repeats() -> None:
    """simformer.md 3: 32 grey levels, contrast and saturation 0.5 to 1.5, hue 18 of 180, each or not."""
    image = np.full((8, 8, 3), (150, 100, 50), dtype=np.uint8)
    drawn = [ssd_jitter(image.copy(), np.random.default_rng(seed)) for seed in range(400)]
    assert np.array_equal(drawn[3], ssd_jitter(image.copy(), np.random.default_rng(3)))
    unchanged = sum(np.array_equal(one, image) for one in drawn) / 400
    assert 0.03 < unchanged < 0.1  # one in sixteen
    grey = np.full((8, 8, 3), 100, dtype=np.uint8)
    levels = np.array([ssd_jitter(grey.copy(), np.random.default_rng(seed))[0, 0] for seed in range(400)])
    assert (levels == levels[:, :1]).all()  # grey has neither hue nor saturation
    assert 34 <= levels.min() < 50  # (100 - 32) / 2
    assert 165 < levels.max() <= 198  # (100 + 32) x 1.5
    hues = np.array([cv2.cvtColor(one, cv2.COLOR_RGB2HSV)[0, 0, 0] for one in drawn]).astype(int)
    away = np.minimum(abs(hues - 15), 180 - abs(hues - 15))  # 15 is the image's own
    assert 15 < away.max() <= 21  # 18, and what clipping adds
