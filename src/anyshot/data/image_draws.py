"""Which image comes next: draws with class balance, as a pure function of seed, epoch and position.

A draw takes a binary search over classes, not a pass over images, and needs no state: to resume at position
p is to ask for position p. Any number of workers and devices asks for its own positions. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from anyshot.data.image_index import ImageIndex
from anyshot.errors import ConfigError


class BalancedDraws:
    """Draws, with replacement, a class with probability proportional to counts ** power and an image of it.

    counts: (C,) images per class, of which those without an image are never drawn; power: 1 = uniform over
    images, 0 = uniform over classes, between them a compromise; classes: indices that may be drawn, None =
    all. Raises ConfigError when power is outside 0..1 or nothing can be drawn.
    """

    def __init__(
        self, counts: npt.NDArray[np.int64], *, power: float, seed: int, classes: Sequence[int] | None = None
    ) -> None:
        if not 0 <= power <= 1:
            raise ConfigError(
                f"power {power}; 0 (uniform over classes) to 1 (uniform over images) is allowed"
            )
        self.counts, self.seed = np.asarray(counts, dtype=np.int64), seed
        weights = np.where(self.counts > 0, self.counts.astype(np.float64) ** power, 0.0)
        if classes is not None:
            chosen = np.zeros(len(weights), dtype=bool)
            chosen[list(classes)] = True
            weights[~chosen] = 0
        if not weights.any():
            raise ConfigError("no class that may be drawn has an image: widen the classes or the data")
        self.probabilities = weights / weights.sum()
        """(C,) of a class to be drawn."""
        self._drawable = np.flatnonzero(weights)
        self._cumulative = self.probabilities[self._drawable].cumsum()

    def draw(
        self, *, epoch: int, position: int, count: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Classes (count,) and numbers (count,) of the images among those of the class, of the draws
        position..position + count - 1 of an epoch."""
        # one block of the counter-based generator per draw: any position can be had without those before it
        numbers = np.random.Philox(key=_key(self.seed, epoch), counter=position).random_raw(4 * count)
        share = (numbers.reshape(count, 4)[:, :2] >> np.uint64(11)) * 2.0**-53
        # rounding may leave the last sum below 1
        place = np.searchsorted(self._cumulative, share[:, 0], side="right").clip(max=len(self._drawable) - 1)
        classes = self._drawable[place]
        amount = self.counts[classes]
        return classes, np.minimum((share[:, 1] * amount).astype(np.int64), amount - 1)

    def images(self, index: ImageIndex, *, epoch: int, position: int, count: int) -> npt.NDArray[np.int64]:
        """Numbers (count,) of the drawn images in `index`, whose counts these are."""
        classes, nth = self.draw(epoch=epoch, position=position, count=count)
        begins = index.class_ends[classes] - self.counts[classes]
        return index.by_class[begins + nth].astype(np.int64)


@lru_cache(maxsize=64)
def _key(seed: int, epoch: int) -> npt.NDArray[np.uint64]:
    """The generator's key for an epoch; the spawn key keeps it apart from the streams of the training."""
    return (
        np.random.SeedSequence([seed, epoch], spawn_key=(3,)).generate_state(2, np.uint64).astype(np.uint64)
    )
