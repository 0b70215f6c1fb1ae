"""Between image and grid: golden case G12, P4, and equality with plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyshot.ops.resample import mask_to_grid, nearest_indices, padded, pool_to_grid, upsample_grid
from tests.reference import resample as reference


def there_and_back(values: list[float]) -> list[float]:
    """x8 and mean-8 of a line, as the grid of one column."""
    line = np.array(values, dtype=np.float32)[None, :, None]
    full = upsample_grid(line, stride=8, height=8 * len(values), width=8)
    return pool_to_grid(full)[0, :, 0].tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 0, 1, 0, 0], [0, 0.125, 0.75, 0.125, 0]), ([1, 0, 0], [0.875, 0.125, 0])],
)
def test_round_trip_is_a_blur(values: list[float], expected: list[float]) -> None:
    """G12: [1/8, 3/4, 1/8] inside, [7/8, 1/8] at the edge."""
    assert there_and_back(values) == pytest.approx(expected, abs=1e-6)
    assert reference.pool_line(reference.upsample_line(values, 8), 8) == pytest.approx(expected)


def test_upsampled_step() -> None:
    """G12: the 16 samples of [0, 1] times 8."""
    expected = [0] * 4 + [0.0625 + 0.125 * k for k in range(8)] + [1] * 4
    ours = upsample_grid(np.array([[[0, 1]]]), stride=8, height=8, width=16)
    assert ours[0, 3].tolist() == pytest.approx(expected)
    assert reference.upsample_line([0, 1], 8) == pytest.approx(expected)


def test_nearest_rows_of_a_mask() -> None:
    """G12 and P4: the published resize drifts by up to 7 px, the exact one does not."""
    rows = nearest_indices(375, 47)
    assert rows[[0, 1, 10, 46]].tolist() == [0, 7, 79, 367]
    column = np.arange(375)[:, None].repeat(2, axis=1)
    official = mask_to_grid(column, height=47, width=1)[:, 0]
    exact = mask_to_grid(column, height=47, width=1, official=False)[:, 0]
    assert official.tolist() == rows.tolist()
    assert exact.tolist() == [8 * i for i in range(47)]
    assert (exact - official).max() == 1
    worst = max(
        int((8 * np.arange(n) - nearest_indices(8 * n - short, n)).max())
        for n in (47, 63)
        for short in range(8)
    )
    assert worst == 7


@pytest.mark.parametrize("length", [1, 7, 8, 9, 71, 333, 375, 500])
def test_nearest_index_is_the_integer_formula(length: int) -> None:
    """floor(i * H / h) in integers: no rounding of the quotient may move an index."""
    cells = padded(length, 8) // 8
    assert nearest_indices(length, cells).tolist() == [i * length // cells for i in range(cells)]


SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=25, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 10**6))
def test_pool_and_upsample_equal_loops(shape: tuple[int, int, int], seed: int) -> None:
    channels, height, width = shape
    maps = np.random.default_rng(seed).random(shape, dtype=np.float32)
    grid = pool_to_grid(maps)
    assert grid.shape == (channels, padded(height, 8) // 8, padded(width, 8) // 8)
    assert grid.dtype == np.float32
    if not channels:
        return
    assert grid == pytest.approx(reference.pool(maps), abs=1e-6)
    full = upsample_grid(grid, stride=8, height=height, width=width)
    assert full.shape == shape
    assert full == pytest.approx(reference.upsample(grid, 8, height, width), abs=1e-6)
    mask = np.random.default_rng(seed).integers(0, 21, size=(height, width))
    cells = grid.shape[1:]
    ours = mask_to_grid(mask, height=cells[0], width=cells[1])
    assert ours.tolist() == reference.nearest(mask, *cells).tolist()


def test_padding_holds_zero() -> None:
    """P5: a partial cell is the mean over 64 px of which the padding holds 0."""
    grid = pool_to_grid(np.ones((1, 9, 12), dtype=np.float32))
    assert grid[0].tolist() == [[1, 0.5], [1 / 8, 1 / 16]]


def test_stride_1_is_a_crop() -> None:
    maps = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    assert upsample_grid(maps, stride=1, height=3, width=5).tolist() == maps[:, :3, :5].tolist()
