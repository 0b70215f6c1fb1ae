"""One image's two-stage walk against the plain versions, and the parity switches P4 to P7."""

from typing import Any

import numpy as np
import pytest
import torch

from anyshot.engine.stores import ScoreMap
from anyshot.ops.affinity import affinity_planes
from anyshot.ops.neighbours import Border, fitting_radius
from anyshot.retab.options import RandomWalk
from anyshot.retab.propagation import between_stages, initial_scores, propagate
from tests.reference import neighbours as pairs_of
from tests.reference import resample
from tests.reference import walk as reference


class Picture:
    """An image of any size: CAMs of two classes, features, and a map of open pixels."""

    def __init__(self, height: int = 77, width: int = 90, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.height, self.width = height, width
        y, x = np.mgrid[:height, :width]
        cams = np.stack([np.exp(-((x - width * c) ** 2 + (y - height / 2) ** 2) / 800) for c in (0.25, 0.8)])
        self.cam = ScoreMap(
            classes=np.array([3, 15], dtype=np.uint16),
            scores=(0.99 * cams).astype(np.float32),
            height=height,
            width=width,
            stride=1,
        )
        cells = (-(-height // 8), -(-width // 8))
        self.radius = fitting_radius(5, *cells)
        self.features = torch.from_numpy(0.3 * rng.normal(size=(16, *cells))).float()
        self.opened = np.ones((height, width), dtype=bool)
        self.opened[:, width // 2 : width // 2 + 9] = False
        self.opened[20:29] = False

    def planes(self, border: Border = "official") -> np.ndarray:
        return affinity_planes(self.features, radius=self.radius, border=border).numpy()

    def propagate(self, *, border: Border = "official", gated: bool = True, **options: Any) -> np.ndarray:
        opened = self.opened if gated else None
        return propagate(
            self.cam, self.planes(border), opened, radius=self.radius, options=RandomWalk(**options)
        )

    def step_by_step(self, *, border: str = "official", exact_mask: bool = False, direct: bool = False,
                     gated: bool = True) -> np.ndarray:  # fmt: skip
        """retab.md 2.9 and 2.10 in their own words, float64."""
        cells = (self.features.shape[1], self.features.shape[2])
        pairs = pairs_of.pairs(self.radius, *cells, border)
        planes = self.planes(border)  # type: ignore[arg-type]
        background = resample.background(self.cam.scores, 16)
        scores = resample.pool(np.concatenate([background[None], self.cam.scores]))
        if not gated:
            return reference.walk(scores, planes, pairs, beta=8, logt=8)
        if exact_mask:
            opened = np.pad(self.opened, ((0, 8), (0, 8)), constant_values=True)
            opened = opened[: 8 * cells[0] : 8, : 8 * cells[1] : 8]
        else:
            opened = resample.nearest(self.opened, *cells)
        first = reference.walk(scores, planes, pairs, beta=8, logt=8, stage="stage1", open_cells=opened)
        if not direct:
            first = resample.pool(resample.upsample(first, 8, self.height, self.width))
        return reference.walk(first, planes, pairs, beta=8, logt=8, stage="stage2", open_cells=opened)


SIZES = [(77, 90), (64, 72), (9, 17), (5, 3), (100, 41)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("method", ["chebyshev", "iterated", "dense"])
def test_both_stages_equal_the_plain_version(height: int, width: int, method: str) -> None:
    picture = Picture(height, width)
    ours = picture.propagate(method=method)
    assert ours.dtype == np.float32
    assert ours == pytest.approx(picture.step_by_step(), abs=2e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_plain_walk_of_psa(height: int, width: int) -> None:
    """P7: without a boundary map the walk is PSA's, in one stage."""
    picture = Picture(height, width)
    assert picture.propagate(gated=False) == pytest.approx(picture.step_by_step(gated=False), abs=2e-5)


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        ({"mask_resize": "stride8"}, {"exact_mask": True}),
        ({"interstage": "direct"}, {"direct": True}),
        ({"border": "full"}, {"border": "full"}),
    ],
    ids=["P4", "P5", "P6"],
)
def test_parity_switches(switch: dict[str, Any], words: dict[str, Any]) -> None:
    """Each one changes the result, to what the text says."""
    picture = Picture()
    changed = picture.propagate(**switch)
    assert changed == pytest.approx(picture.step_by_step(**words), abs=2e-5)
    assert np.abs(changed - picture.propagate()).max() > 1e-3


def test_everything_open_without_hand_over_is_the_plain_walk() -> None:
    """m = 1: stage 1 is PSA, stage 2 the identity."""
    picture = Picture()
    picture.opened[:] = True
    plain = picture.propagate(gated=False)
    assert picture.propagate(interstage="direct") == pytest.approx(plain, abs=1e-6)
    blurred = between_stages(plain, height=picture.height, width=picture.width)
    assert picture.propagate() == pytest.approx(blurred, abs=1e-6)


def test_everything_boundary_is_the_plain_walk_too() -> None:
    """m = 0: stage 1 is the identity, stage 2 PSA."""
    picture = Picture()
    picture.opened[:] = False
    assert picture.propagate(interstage="direct") == pytest.approx(picture.propagate(gated=False), abs=1e-6)


def test_mask_drift_of_the_official_resize() -> None:
    """P4 at H = 375: official cell 10 looks at row 79, the exact one at row 80."""
    picture = Picture(375, 40)
    picture.opened[:] = True
    picture.opened[80] = False
    everything_open = Picture(375, 40)
    everything_open.opened[:] = True
    assert (picture.propagate() == everything_open.propagate()).all()
    exact = picture.propagate(mask_resize="stride8", interstage="direct")
    unmoved = everything_open.propagate(mask_resize="stride8", interstage="direct")
    assert np.abs(exact - unmoved).max() > 1e-3
    picture.opened[80], picture.opened[79] = True, False
    assert np.abs(picture.propagate() - everything_open.propagate()).max() > 1e-3
    assert (picture.propagate(mask_resize="stride8", interstage="direct") == unmoved).all()


def test_hand_over_blurs_and_dims() -> None:
    """P5: [1/8, 3/4, 1/8] inside; the last row of 73 px holds one px of each 8, so it is dimmed to 1/8."""
    grid = np.zeros((1, 10, 6), dtype=np.float32)
    grid[0, 4] = 1
    after = between_stages(grid, height=73, width=48)
    assert after[0, 3:6, 2] == pytest.approx([0.125, 0.75, 0.125])
    ones = between_stages(np.ones_like(grid), height=73, width=48)
    assert ones[0, :, 0] == pytest.approx([1] * 9 + [0.125])
    expected = resample.pool(resample.upsample(grid, 8, 73, 48))
    assert after == pytest.approx(expected, abs=1e-6)


def test_initial_scores() -> None:
    """Background (1 - best CAM)^alpha first, all pooled with zeros in the padding (retab.md 2.9)."""
    picture = Picture(20, 27)
    for alpha in (4.0, 16.0):
        background = resample.background(picture.cam.scores, alpha)
        expected = resample.pool(np.concatenate([background[None], picture.cam.scores]))
        assert initial_scores(picture.cam, alpha=alpha) == pytest.approx(expected, abs=1e-6)


def test_image_without_labels() -> None:
    """P20: K = 0 is all background; its one channel stays the only one."""
    picture = Picture(40, 48)
    none = ScoreMap(
        classes=np.zeros(0, dtype=np.uint16),
        scores=np.zeros((0, 40, 48), dtype=np.float32),
        height=40,
        width=48,
        stride=1,
    )
    out = propagate(none, picture.planes(), picture.opened, radius=picture.radius, options=RandomWalk())
    assert out.shape == (1, 5, 6)
    assert out == pytest.approx(np.ones((1, 5, 6)), abs=1e-5)


def test_half_precision_affinities() -> None:
    """Stored as float16 the affinities still give the walk to 1e-2 (a^8 after 256 steps)."""
    picture = Picture()
    half = propagate(
        picture.cam,
        picture.planes().astype(np.float16),
        picture.opened,
        radius=picture.radius,
        options=RandomWalk(),
    )
    assert half == pytest.approx(picture.propagate(), abs=1e-2)
