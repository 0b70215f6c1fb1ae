"""Pictures: resampling, colours, the choice of images."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from anyshot.engine.stores import ScoreMap
from anyshot.report.gallery import Painter, extremes, full_size_scores, strongest_score, winning_ids

PAINTER = Painter(
    colours={0: (0, 0, 0), 7: (128, 0, 0), 300: (0, 200, 0)},
    names={0: "background", 7: "cat", 300: "sofa"},
    roles={7: "novel"},
    side=40,
)


def opened(uri: str) -> Image.Image:
    head, _, body = uri.partition(";base64,")
    assert head in ("data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_upsampling_by_hand() -> None:
    scores = np.array([[[0.0, 1.0]]], np.float32)  # one class, 1 x 2 cells of 4 px, the image 3 x 7 px
    scored = ScoreMap(classes=np.array([7], np.uint16), scores=scores, height=3, width=7, stride=4)
    row = [0, 0, 0.125, 0.375, 0.625, 0.875, 1]  # half-pixel centres, edges repeated
    np.testing.assert_allclose(full_size_scores(scored), [[row] * 3], atol=1e-6)


def test_winning_ids_by_hand() -> None:
    scores = np.array([[[0.6, 0.2]], [[0.6, 0.1]], [[0.0, 0.9]]], np.float32)
    scored = ScoreMap(classes=np.array([0, 7, 300], np.uint16), scores=scores, height=1, width=2, stride=1)
    assert winning_ids(scored).tolist() == [[0, 300]]
    np.testing.assert_allclose(strongest_score(scored), [[0.6, 0.9]])


def test_map_without_classes_is_cold() -> None:
    empty = ScoreMap(
        classes=np.zeros(0, np.uint16), scores=np.zeros((0, 4, 5), np.float32), height=4, width=5, stride=1
    )
    assert strongest_score(empty).tolist() == np.zeros((4, 5)).tolist()


def test_mask_keeps_the_tables_colours() -> None:
    mask = np.zeros((20, 30), np.uint16)
    mask[:10, :15], mask[:10, 15:], mask[10:, :15] = 7, 300, 9
    mask[10:, 15:] = 65535
    picture = opened(PAINTER.mask(mask))
    pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (20, 30, 3)
    assert pixels[2, 2].tolist() == [128, 0, 0]
    assert pixels[2, 20].tolist() == [0, 200, 0]
    assert pixels[15, 2].tolist() == [255, 0, 255]  # an id of no class shows
    void = {tuple(colour) for colour in pixels[10:, 15:].reshape(-1, 3).tolist()}
    assert void == {(255, 255, 255), (190, 190, 190)}


def test_mask_of_void_alone() -> None:
    pixels = np.asarray(opened(PAINTER.mask(np.full((9, 9), 255, np.uint8))).convert("RGB"))
    assert set(np.unique(pixels)) == {190, 255}


def test_pictures_are_shrunk_never_enlarged() -> None:
    rng = np.random.default_rng(0)
    large = rng.integers(0, 255, (100, 80, 3)).astype(np.uint8)
    assert opened(PAINTER.photograph(large)).size == (32, 40)
    assert opened(PAINTER.heat(large, rng.random((100, 80)))).size == (32, 40)
    assert opened(PAINTER.photograph(large[:9, :7])).size == (7, 9)
    assert opened(PAINTER.mask(np.zeros((4000, 3), np.uint8))).size == (1, 40)


def test_legend_names_what_is_there() -> None:
    masks = [np.array([[0, 7]]), np.array([[255, 9]])]
    assert [(entry.name, entry.role) for entry in PAINTER.legend(masks)] == [
        ("background", ""), ("cat", "novel"), ("id 9", ""), ("void", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("images", [0, 1, 2, 3, 4, 7, 12, 50])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_extremes_repeat_nothing(images: int, count: int) -> None:
    scores = {f"i{number:02d}": number / 50 for number in range(images)}
    groups = extremes(scores, count)
    chosen = [identity for group in groups.values() for identity in group]
    assert len(chosen) == len(set(chosen)) <= 3 * count
    if images:
        assert groups["best"][0] == f"i{images - 1:02d}"
    if images > 1:
        assert groups["worst"][-1] == "i00"


def test_extremes_by_hand() -> None:
    scores = {name: value for value, name in enumerate("abcdefghi")}
    assert extremes({k: float(v) for k, v in scores.items()}, 2) == {
        "best": ["i", "h"], "middle": ["f", "e"], "worst": ["b", "a"],
    }  # fmt: skip
