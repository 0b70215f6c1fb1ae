"""The sparse walk: golden cases G4, G5, G6, equality with the dense reference, and its invariants."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from anyshot.ops.affinity import affinity_planes
from anyshot.ops.neighbours import Border, fitting_radius, neighbour_offsets
from anyshot.ops.random_walk import (
    Method,
    apply_power,
    chebyshev_coefficients,
    transition_matrix,
    walk,
)
from tests.reference import neighbours as pairs_of
from tests.reference import walk as reference

METHODS: list[Method] = ["chebyshev", "iterated", "dense"]
STAGES: list[Literal["plain", "stage1", "stage2"]] = ["plain", "stage1", "stage2"]


class Grid:
    """A random but realistic problem: smooth features, so that affinities range from 0.3 to 1."""

    def __init__(
        self, seed: int, height: int, width: int, *, channels: int = 3, border: Border = "official"
    ) -> None:
        rng = np.random.default_rng(seed)
        self.radius = fitting_radius(5, height, width)
        self.border = border
        coarse = torch.from_numpy(rng.normal(size=(1, 16, 2 + height // 8, 2 + width // 8)))
        features = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
        features += 0.05 * torch.from_numpy(rng.normal(size=tuple(features.shape)))
        self.features = features.float()
        self.planes = affinity_planes(self.features, radius=self.radius, border=border).numpy()
        self.scores = rng.random((channels, height, width), dtype=np.float32)
        self.open_cells = rng.random((height, width)) < 0.8

    def reference(self, stage: str = "plain", *, dtype: type = np.float64) -> np.ndarray:
        height, width = self.open_cells.shape
        pairs = pairs_of.pairs(self.radius, height, width, self.border)
        return reference.walk(
            self.scores,
            self.planes,
            pairs,
            beta=8,
            logt=8,
            stage=stage,
            open_cells=self.open_cells,
            dtype=dtype,
        )

    def walk(
        self,
        stage: Literal["plain", "stage1", "stage2"] = "plain",
        *,
        method: Method = "chebyshev",
        open_cells: np.ndarray | None = None,
    ) -> np.ndarray:
        opened = self.open_cells if open_cells is None else open_cells
        return walk(
            self.scores, self.planes, radius=self.radius, open_cells=opened, stage=stage, method=method
        )


def line_planes(affinities: list[float]) -> tuple[np.ndarray, int]:
    """A chain as a grid of one row: planes (O, 1, n) of radius 2 whose first offset is (0, 1)."""
    planes = np.zeros((4, 1, len(affinities) + 1), dtype=np.float32)
    planes[0, 0, : len(affinities)] = affinities
    return planes, 2


X3 = np.array([[1, 0.2, 0], [0, 0.1, 0.8]])


@pytest.mark.parametrize(
    ("beta", "logt", "first_rows", "out"),
    [
        (
            1,
            0,
            [[0.6666667, 0.2083333, 0], [0.3333333, 0.4166667, 0.4736842], [0, 0.375, 0.5263158]],
            [[0.7333333, 0.2916667, 0.0947368], [0.0333333, 0.3416667, 0.4684211]],
        ),
        (
            2,
            1,
            [[0.8, 0.1213592, 0], [0.2, 0.4854369, 0.4475138], [0, 0.3932039, 0.5524862]],
            [[0.7156893, 0.2431766, 0.1472069], [0.0886214, 0.3700808, 0.4314126]],
        ),
        (
            8,
            8,
            [[0.9961089, 0.0027233, 0]],
            [[0.5073112, 0.2733199, 0.2722504], [0.2456121, 0.3631863, 0.3637237]],
        ),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_three_nodes(
    beta: int, logt: int, first_rows: list[list[float]], out: list[list[float]], method: Method
) -> None:
    """G4, with the dense reference and all three methods."""
    planes, radius = line_planes([0.5, 0.9])
    pairs = [(0, 0, 1), (0, 1, 2)]
    matrix = reference.transition(reference.affinity_matrix(planes, pairs), beta)
    assert matrix[: len(first_rows)] == pytest.approx(np.array(first_rows), abs=1e-5)
    ours = transition_matrix(planes, radius=radius, beta=beta).toarray()
    assert pytest.approx(matrix, abs=1e-6) == ours.T
    walked = walk(X3[:, None], planes, radius=radius, beta=beta, logt=logt, method=method)
    assert walked[:, 0] == pytest.approx(np.array(out), abs=1e-5)


def test_three_nodes_squared() -> None:
    """G4: D of beta 2, and 256 steps are not yet the stationary distribution."""
    planes, _ = line_planes([0.5, 0.9])
    pairs = [(0, 0, 1), (0, 1, 2)]
    squared = reference.power(reference.transition(reference.affinity_matrix(planes, pairs), 2), 1)
    expected = [
        [0.6642718, 0.1559996, 0.0543099],
        [0.2570874, 0.4358850, 0.4644849],
        [0.0786408, 0.4081154, 0.4812052],
    ]
    assert squared == pytest.approx(np.array(expected), abs=1e-5)
    endless = reference.walk(X3[:, None], planes, pairs, beta=8, logt=24)[:, 0]
    assert endless == pytest.approx(np.array([[0.3336432] * 3, [0.3328755] * 3]), abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_two_stages_on_a_chain(method: Method) -> None:
    """G5: both transition matrices, both results, the labels, and the harmonic limit."""
    planes, radius = line_planes([0.9, 0.8, 0.6, 0.95])
    opened = np.array([[True, True, False, False, True]])
    x = np.array([[0.1, 0.3, 0.5, 0.5, 0.9], [0.9, 0.6, 0.3, 0.2, 0]])[:, None]

    first = transition_matrix(planes, radius=radius, beta=8, open_cells=opened, stage="stage1").toarray().T
    block = np.eye(5)
    block[:2, :2] = [[0.6990723, 0.3009277], [0.3009277, 0.6990723]]
    assert first == pytest.approx(block, abs=1e-5)
    one = walk(x, planes, radius=radius, open_cells=opened, stage="stage1", method=method)
    assert one[:, 0] == pytest.approx(
        np.array([[0.2, 0.2, 0.5, 0.5, 0.9], [0.75, 0.75, 0.3, 0.2, 0]]), abs=1e-5
    )

    second = transition_matrix(planes, radius=radius, beta=8, open_cells=opened, stage="stage2").toarray().T
    columns = np.eye(5)
    columns[:, 2] = [0, 0.1416315, 0.8441894, 0.0141791, 0]
    columns[:, 3] = [0, 0, 0.0099964, 0.5951614, 0.3948422]
    assert second == pytest.approx(columns, abs=1e-5)
    two = walk(one, planes, radius=radius, open_cells=opened, stage="stage2", method=method)[:, 0]
    expected = [[0.2, 0.2, 0.2622687, 0.8842529, 0.9], [0.75, 0.75, 0.6832836, 0.0168719, 0]]
    assert two == pytest.approx(np.array(expected), abs=1e-5)
    assert two.argmax(axis=0).tolist() == [1, 1, 1, 0, 0]

    inner, sources = second[2:4, 2:4], second[[0, 1, 4]][:, 2:4]
    assert np.abs(np.linalg.eigvals(inner)).max() == pytest.approx(0.84476, abs=1e-5)
    limit = one[:, 0][:, [0, 1, 4]] @ sources @ np.linalg.inv(np.eye(2) - inner)
    assert two[:, 2:4] == pytest.approx(limit, abs=2e-7)


G6_PLAIN = [
    [
        [0.1, 0.182583, 0.221461, 0.203952],
        [0.156307, 0.194591, 0.251144, 0.249695],
        [0.166327, 0.203197, 0.256196, 0.289616],
    ],
    [
        [0, 0.149883, 0.090682, 0.065124],
        [0.136047, 0.205485, 0.109524, 0.083236],
        [0.274143, 0.219404, 0.133670, 0.076798],
    ],
]
G6_STAGE1 = [[0, 0.244318, 0, 0], [0.196385, 0.328682, 0, 0], [0.355743, 0.355743, 0, 0]]


def whole_grid() -> tuple[np.ndarray, np.ndarray]:
    """G6: planes (4, 3, 4) at radius 2, scores (2, 3, 4)."""
    y, x = np.mgrid[:3, :4]
    features = torch.from_numpy(np.stack([(x >= 2).astype(np.float64), 0.25 * y]))
    scores = np.zeros((2, 3, 4))
    scores[0], scores[0, 1, 2], scores[1, 1, 1] = 0.1, 0.8, 1
    return affinity_planes(features, radius=2).numpy(), scores


@pytest.mark.parametrize("method", METHODS)
def test_whole_grid(method: Method) -> None:
    """G6: affinities, the plain walk and both stages on a 3x4 grid under the official border rule."""
    planes, scores = whole_grid()
    pairs = pairs_of.pairs(2, 3, 4)
    assert pairs_of.degrees(2, 3, 4).tolist() == [[0, 4, 5, 1], [1, 6, 7, 2], [1, 2, 2, 1]]
    row = [0, 0.882497, 0.535261, 0, 0, 1, 0.606531, 0, 0.882497, 0.882497, 0.535261, 0]
    assert reference.affinity_matrix(planes, pairs)[5] == pytest.approx(np.array(row), abs=1e-5)

    plain = walk(scores, planes, radius=2, beta=2, logt=2, method=method)
    assert plain == pytest.approx(np.array(G6_PLAIN), abs=1e-5)

    opened = np.ones((3, 4), dtype=bool)
    opened[:, 2] = False
    gate = {"radius": 2, "beta": 2, "logt": 2, "open_cells": opened, "method": method}
    one = walk(scores, planes, stage="stage1", **gate)  # type: ignore[arg-type]
    assert one[0] == pytest.approx(scores[0], abs=1e-6)
    assert one[1] == pytest.approx(np.array(G6_STAGE1), abs=1e-5)

    two = walk(one, planes, stage="stage2", **gate)  # type: ignore[arg-type]
    assert two[0, :, 2] == pytest.approx([0.116041, 0.131047, 0.175793], abs=1e-5)
    assert two[1, :, 2] == pytest.approx([0.078380, 0.101453, 0.137993], abs=1e-5)
    assert two[:, opened] == pytest.approx(one[:, opened], abs=1e-6)
    assert two.argmax(axis=0).tolist() == [[0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (3, 3), (10, 11), (12, 9), (15, 22)])
@pytest.mark.parametrize("border", ["official", "full"])
def test_all_methods_equal_the_dense_reference(
    height: int, width: int, stage: Literal["plain", "stage1", "stage2"], border: Border
) -> None:
    grid = Grid(height * width, height, width, border=border)
    expected = grid.reference(stage)
    for method in METHODS:
        assert grid.walk(stage, method=method) == pytest.approx(expected, abs=2e-5), method


@pytest.fixture(scope="module")
def photograph() -> Grid:
    """The grid of a 375x500 px image."""
    return Grid(7, 47, 63)


@pytest.fixture(scope="module")
def exact(photograph: Grid) -> np.ndarray:
    """The plain walk on the reference's matrix in float64, one step after the other, (3, 47, 63)."""
    dense = reference.transition(reference.affinity_matrix(photograph.planes, pairs_of.pairs(5, 47, 63)), 8)
    matrix = sparse.csr_array(dense.T)
    assert matrix.nnz == 163_781
    assert dense.sum(axis=0) == pytest.approx(np.ones(47 * 63), abs=1e-12)
    return steps_of(matrix, photograph.scores)


def steps_of(matrix: sparse.csr_array, scores: np.ndarray) -> np.ndarray:
    columns = scores.reshape(len(scores), -1).T.astype(np.float64)
    for _ in range(256):
        columns = matrix @ columns
    return columns.T.reshape(scores.shape)


@pytest.mark.parametrize("method", METHODS)
def test_photograph(photograph: Grid, exact: np.ndarray, method: Method) -> None:
    """2,961 cells, 256 steps: within 2e-5 (the sparse methods far closer), same labels."""
    out = photograph.walk(method=method)
    assert out == pytest.approx(exact, abs=2e-5 if method == "dense" else 4e-6)
    assert (out.argmax(axis=0) == exact.argmax(axis=0)).mean() > 0.999


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_photograph_in_stages(photograph: Grid, stage: Literal["stage1", "stage2"]) -> None:
    matrix = transition_matrix(
        photograph.planes, radius=5, beta=8, open_cells=photograph.open_cells, stage=stage
    )
    expected = steps_of(matrix, photograph.scores)
    for method in ("chebyshev", "iterated"):
        assert photograph.walk(stage, method=method) == pytest.approx(expected, abs=4e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_channel_subset_equals_all_21_channels(method: Method) -> None:
    grid = Grid(3, 13, 14, channels=3)
    everything = np.zeros((21, 13, 14), dtype=np.float32)
    everything[[0, 4, 15]] = grid.scores
    walked = walk(everything, grid.planes, radius=5, method=method)
    assert walked[[0, 4, 15]] == pytest.approx(grid.walk(method=method), abs=1e-6)
    assert not walked[[k for k in range(21) if k not in (0, 4, 15)]].any()
    alone = walk(grid.scores[1:2], grid.planes, radius=5, method=method)
    assert alone == pytest.approx(grid.walk(method=method)[1:2], abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_no_channel_and_no_score(method: Method) -> None:
    grid = Grid(3, 6, 7)
    assert walk(grid.scores[:0], grid.planes, radius=grid.radius, method=method).shape == (0, 6, 7)
    assert not walk(0 * grid.scores, grid.planes, radius=grid.radius, method=method).any()


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 16),
    width=st.integers(1, 16),
    border=st.sampled_from(["official", "full"]),
    method=st.sampled_from(METHODS),
)
def test_invariants(seed: int, height: int, width: int, border: Border, method: Method) -> None:
    """Every output is a weighted mean, stage 1 leaves boundary cells, stage 2 leaves open cells."""
    grid = Grid(seed, height, width, border=border)
    low, high = (bound(grid.scores, axis=(1, 2), keepdims=True) for bound in (np.min, np.max))
    for stage in STAGES:
        matrix = transition_matrix(
            grid.planes, radius=grid.radius, beta=8, open_cells=grid.open_cells, stage=stage
        )
        assert matrix.sum(axis=1) == pytest.approx(np.ones(height * width), abs=1e-12)
        assert matrix.data.min() >= 0
        out = grid.walk(stage, method=method)
        # the rounding of 256 single-precision products; the published squarings drift more
        slack = 2e-5 if method == "dense" else 2e-6
        assert ((out >= low - slack) & (out <= high + slack)).all()
        untouched = {"plain": None, "stage1": ~grid.open_cells, "stage2": grid.open_cells}[stage]
        if untouched is not None:
            assert out[:, untouched] == pytest.approx(grid.scores[:, untouched], abs=1e-6)

    everywhere, nowhere = np.ones((height, width), dtype=bool), np.zeros((height, width), dtype=bool)
    plain = grid.walk("plain", method=method)
    assert (grid.walk("stage1", method=method, open_cells=everywhere) == plain).all()
    assert (grid.walk("stage2", method=method, open_cells=nowhere) == plain).all()
    for stage, opened in (("stage2", everywhere), ("stage1", nowhere)):
        out = grid.walk(stage, method=method, open_cells=opened)  # type: ignore[arg-type]
        assert out == pytest.approx(grid.scores, abs=1e-6)


def mirrored_difference(border: Border) -> float:
    """Largest difference between walking a mirrored image and mirroring the walk."""
    grid = Grid(11, 14, 19, border=border)
    flipped = affinity_planes(grid.features.flip(2), radius=5, border=border).numpy()
    out = walk(grid.scores[:, :, ::-1], flipped, radius=5)
    return float(np.abs(out[:, :, ::-1] - grid.walk()).max())


def test_mirror() -> None:
    """P6: the walk of the mirrored image is the mirrored walk under `border: full` only."""
    assert mirrored_difference("full") < 1e-5
    assert mirrored_difference("official") > 1e-2


def test_gate_is_required() -> None:
    grid = Grid(1, 12, 12)
    with pytest.raises(ValueError, match="needs the map of open cells"):
        walk(grid.scores, grid.planes, radius=5, stage="stage1")


@pytest.mark.parametrize("steps", [1, 2, 16, 256, 1024])
def test_chebyshev_coefficients(steps: int) -> None:
    """t^steps = sum_k c_k C_k(t) on [-1, 1], with few terms."""
    coefficients = chebyshev_coefficients(steps)
    t = np.linspace(-1, 1, 501)
    series = np.polynomial.chebyshev.chebval(t, coefficients)
    assert series == pytest.approx(t**steps, abs=1e-10)
    assert len(coefficients) <= min(steps, 8 * np.sqrt(steps)) + 1


def test_power_zero_is_one_step() -> None:
    """logt 0 means one step, as T^(2^0)."""
    rng = np.random.default_rng(0)
    dense = rng.random((5, 5))
    dense /= dense.sum(axis=1, keepdims=True)
    scores = rng.random((2, 5)).astype(np.float32)
    for method in METHODS:
        out = apply_power(scores, sparse.csr_array(dense), logt=0, method=method)
        assert out == pytest.approx(scores @ dense.T, abs=1e-6)


def test_pairs_are_those_of_the_reference() -> None:
    grid = Grid(5, 12, 13)
    matrix = transition_matrix(grid.planes, radius=5, beta=8)
    pairs = pairs_of.pairs(5, 12, 13)
    assert matrix.nnz == 2 * len(pairs) + 12 * 13
    dense = reference.transition(reference.affinity_matrix(grid.planes, pairs), 8)
    assert pytest.approx(dense, abs=1e-7) == matrix.toarray().T
    assert len(neighbour_offsets(5)) == len(grid.planes)
