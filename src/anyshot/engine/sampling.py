"""Which image is seen when, as pure functions of (seed, epoch, position), and the loader that follows them.

A resumed training continues at any step without a state of the loader, and the global batches are the same
for any number of workers and devices.
"""

from __future__ import annotations

import dataclasses
import random
import signal
import sys
import traceback
from collections.abc import Generator, Iterator, Mapping
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, default_collate

from anyshot.errors import AnyshotError, ConfigError

Batch = dict[str, Any]
Key = tuple[int, int]  # (epoch, index of the item)
TERMINATION_SECONDS = 20  # that a data worker lives on after SIGTERM


class TrainingData(Protocol):
    """A training set: map-style, all randomness of an item comes from `rng`."""

    def __len__(self) -> int: ...

    def item(self, index: int, rng: np.random.Generator) -> Mapping[str, Any]: ...


@runtime_checkable
class EpochTrainingData(Protocol):
    """A training set whose items are other ones in every epoch (0-based)."""

    def __len__(self) -> int: ...

    def item_of(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, Any]: ...


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, length: int) -> npt.NDArray[np.int64]:
    """The order of the items 0..length-1 in an epoch: (length,)."""
    # the spawn key keeps this stream apart from those of the items
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=(1,))
    order = np.random.default_rng(sequence).permutation(length)
    order.setflags(write=False)
    return order


def sample_seed(seed: int, epoch: int, index: int) -> list[int]:
    """What seeds the generator of item `index` in `epoch`: np.random.default_rng(sample_seed(...))."""
    return [seed, epoch, index]


def step_seed(seed: int, step: int, rank: int, part: int = 0) -> int:
    """What seeds torch before part `part` of the update `step` (both 0-based) on device `rank`."""
    sequence = np.random.SeedSequence([seed, step, rank, part], spawn_key=(2,))
    return int(sequence.generate_state(1, np.uint64)[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """The plan of a training: `length` items, batches of `batch_size` over all devices, incomplete ones
    dropped.

    A batch is computed in `parts` (gradient accumulation) on `world` devices; device `rank` has its slice of
    each part. Raises ConfigError when the batch cannot be divided so, or is larger than the training set.
    """

    seed: int
    length: int
    batch_size: int
    parts: int = 1
    world: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if self.batch_size % (self.parts * self.world):
            raise ConfigError(
                f"batch_size {self.batch_size} cannot be divided into {self.parts} parts (`accumulate`) on"
                f" {self.world} devices: set batch_size to a multiple of {self.parts * self.world}"
            )
        if self.length < self.batch_size:
            raise ConfigError(
                f"the training set has {self.length} images, fewer than batch_size {self.batch_size}: lower"
                " batch_size or widen the subsets"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one pass over the training set."""
        return self.length // self.batch_size

    def total_steps(self, epochs: int, max_steps: int | None) -> int:
        """Updates of the whole training."""
        steps = self.steps_per_epoch * epochs
        return steps if max_steps is None else min(steps, max_steps)

    def keys(self, step: int) -> list[Key]:
        """The (epoch, index) of the global batch of update `step` (0-based)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.seed, epoch, self.length)
        begin = position * self.batch_size
        return [(epoch, int(index)) for index in order[begin : begin + self.batch_size]]

    def part_keys(self, step: int) -> list[list[Key]]:
        """This device's share of each part of the batch of update `step`."""
        keys = self.keys(step)
        size = self.batch_size // (self.parts * self.world)
        begins = ((part * self.world + self.rank) * size for part in range(self.parts))
        return [keys[begin : begin + size] for begin in begins]


@dataclasses.dataclass(frozen=True)
class _Failure:
    """An error of a data worker on its way to the main process."""

    kind: type[AnyshotError]
    message: str
    traceback: str


class ItemError(Exception):
    """Carries the traceback of a data worker, as the cause of the AnyshotError it raised."""


class _Items:
    """The training set by (epoch, index), for torch's DataLoader."""

    def __init__(self, data: TrainingData | EpochTrainingData, seed: int) -> None:
        self.data = data
        self.seed = seed

    def __getitem__(self, key: Key) -> Mapping[str, Any] | _Failure:
        epoch, index = key
        rng = np.random.default_rng(sample_seed(self.seed, epoch, index))
        try:
            if isinstance(self.data, EpochTrainingData):
                return self.data.item_of(epoch, index, rng)
            return self.data.item(index, rng)
        except AnyshotError as error:
            return _Failure(type(error), str(error), traceback.format_exc())


def _collate(items: list[Mapping[str, Any] | _Failure]) -> Batch | _Failure:
    return next((item for item in items if isinstance(item, _Failure)), None) or default_collate(items)


def _outlive_sigterm(signum: int, frame: object) -> None:
    signal.alarm(TERMINATION_SECONDS)  # whose default action ends the process


def _start_worker(worker: int) -> None:
    """One thread per worker. Signals to the whole group are the main process's business.

    Slurm and Ctrl-C signal all processes of a job. If a worker ended at once, torch would raise an error in
    the main process at any place, and the state it is about to save would be torn.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _outlive_sigterm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
    random.seed(worker)  # nothing may draw from it; equal runs at least stay equal if something does


class _PartKeys:
    """The batches of keys from update `first` to `total`, part by part."""

    def __init__(self, sampling: Sampling, first: int, total: int) -> None:
        self._sampling, self._first, self._total = sampling, first, total

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self._first, self._total):
            yield from self._sampling.part_keys(step)

    def __len__(self) -> int:
        return (self._total - self._first) * self._sampling.parts


def part_batches(
    data: TrainingData | EpochTrainingData,
    sampling: Sampling,
    *,
    first: int,
    total: int,
    workers: int,
    pin_memory: bool = False,
) -> Generator[Batch, None, None]:
    """The batches of this device from update `first` to `total`, part by part, tensors stacked along axis 0.

    workers: processes that make the items, 0 = none. Raises what `data.item` raised; AnyshotErrors of a
    worker arrive as themselves.
    """
    items, keys = _Items(data, sampling.seed), _PartKeys(sampling, first, total)
    if workers == 0:
        for part in keys:
            yield _unpacked(_collate([items[key] for key in part]))
        return
    loader: DataLoader[Any] = DataLoader(
        items,  # type: ignore[arg-type] # map-style, with (epoch, index) as keys
        batch_sampler=keys,  # type: ignore[arg-type]
        num_workers=min(workers, max(1, len(keys))),
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # its own: the model's random numbers must not depend on the loader
    )
    batches = iter(loader)
    try:
        for batch in batches:
            yield _unpacked(batch)
    except RuntimeError as error:
        text = str(error)
        if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
            raise AnyshotError(
                f"a data worker was killed ({text.splitlines()[0]}), most likely for lack of memory:"
                " lower `workers` or `batch_size`, or give the job more memory"
            ) from error
        raise
    finally:
        # torch ends the workers when the iterator is collected, which a traceback may delay for ever
        batches._shutdown_workers()  # type: ignore[attr-defined]


def _unpacked(batch: Batch | _Failure) -> Batch:
    if isinstance(batch, _Failure):
        raise batch.kind(batch.message) from ItemError(batch.traceback)
    return batch
