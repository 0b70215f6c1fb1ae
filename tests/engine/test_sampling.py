import os
import signal
from typing import Any

import numpy as np
import pytest
import torch

from anyshot.engine.sampling import Sampling, epoch_order, part_batches, sample_seed, step_seed
from anyshot.errors import AnyshotError, ConfigError, DataError


class Draws:
    """Items that say who they are and what they drew."""

    def __init__(self, length: int, broken: int = -1, error: type[BaseException] = DataError) -> None:
        self.length, self.broken, self.error = length, broken, error

    def __len__(self) -> int:
        return self.length

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        if index == self.broken:
            raise self.error(f"image {index} is broken")
        return {"index": torch.tensor(index), "draw": torch.tensor(rng.random()), "id": f"i{index}"}


class Killer(Draws):
    """Data that the system kills for lack of memory."""

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def drawn(
    data: Draws, sampling: Sampling, workers: int, first: int = 0
) -> list[tuple[list[int], list[float]]]:
    batches = part_batches(data, sampling, first=first, total=6, workers=workers)
    return [(batch["index"].tolist(), batch["draw"].tolist()) for batch in batches]


def test_epoch_order_is_a_pure_function() -> None:
    order = epoch_order(1, 2, 50)
    assert sorted(order) == list(range(50))
    epoch_order.cache_clear()
    np.testing.assert_array_equal(epoch_order(1, 2, 50), order)
    assert not np.array_equal(epoch_order(1, 3, 50), order)
    assert not np.array_equal(epoch_order(2, 2, 50), order)
    assert sample_seed(1, 2, 3) == [1, 2, 3]


def test_step_seeds_differ() -> None:
    seeds = {step_seed(a, b, c, d) for a in range(3) for b in range(3) for c in range(3) for d in range(3)}
    assert len(seeds) == 81


def test_incomplete_batch_is_dropped() -> None:
    sampling = Sampling(seed=0, length=11, batch_size=4)
    assert sampling.steps_per_epoch == 2
    assert sampling.total_steps(3, None) == 6
    assert sampling.total_steps(3, 4) == 4
    assert sampling.total_steps(1, 4) == 2
    keys = [key for step in range(6) for key in sampling.keys(step)]
    assert [epoch for epoch, _ in keys] == [0] * 8 + [1] * 8 + [2] * 8
    for epoch in range(3):
        assert len({index for e, index in keys if e == epoch}) == 8


@pytest.mark.parametrize(("parts", "world"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 1)])
def test_global_batch_does_not_depend_on_parts_and_devices(parts: int, world: int) -> None:
    plan = {"seed": 5, "length": 30, "batch_size": 8}
    whole = Sampling(**plan)
    ranks = [Sampling(**plan, parts=parts, world=world, rank=rank) for rank in range(world)]
    for step in range(6):
        dealt = [rank.part_keys(step) for rank in ranks]
        assert all(len(of_rank) == parts for of_rank in dealt)
        assert [key for part in range(parts) for of_rank in dealt for key in of_rank[part]] == whole.keys(
            step
        )


def test_impossible_plans() -> None:
    with pytest.raises(ConfigError, match="multiple of 6"):
        Sampling(seed=0, length=30, batch_size=8, parts=3, world=2)
    with pytest.raises(ConfigError, match="3 images, fewer than batch_size 8"):
        Sampling(seed=0, length=3, batch_size=8)


def test_workers_change_nothing() -> None:
    sampling = Sampling(seed=3, length=13, batch_size=4, parts=2)
    alone = drawn(Draws(13), sampling, workers=0)
    assert len(alone) == 12
    assert drawn(Draws(13), sampling, workers=2) == alone
    assert drawn(Draws(13), sampling, workers=2, first=4) == alone[8:]
    expected = np.random.default_rng([3, 0, alone[0][0][0]]).random()
    assert alone[0][1][0] == np.float32(expected)


def test_loader_leaves_the_random_state_of_torch_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    drawn(Draws(13), Sampling(seed=3, length=13, batch_size=4), workers=1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_arrive_as_themselves(workers: int) -> None:
    with pytest.raises(DataError, match=r"^image 5 is broken$"):
        drawn(Draws(12, broken=5), Sampling(seed=0, length=12, batch_size=4), workers)
    with pytest.raises(ZeroDivisionError, match="image 5 is broken"):
        drawn(
            Draws(12, broken=5, error=ZeroDivisionError), Sampling(seed=0, length=12, batch_size=4), workers
        )


def test_killed_worker() -> None:
    with pytest.raises(AnyshotError, match=r"a data worker was killed.*lower `workers`"):
        drawn(Killer(12), Sampling(seed=0, length=12, batch_size=4), 2)
