"""Learning-rate schedules: pure functions from a step (0-based) to the multiplier of the base rate."""

from __future__ import annotations

import math
from collections.abc import Callable

from anyshot.options import OptimiserOptions

Schedule = Callable[[int, int], float]


def constant(step: int, total: int) -> float:
    """Always 1."""
    return 1.0


def poly(step: int, total: int, power: float = 0.9) -> float:
    """(1 - step / total) ** power; 0 from step `total` on."""
    return max(0.0, 1.0 - step / total) ** power


def cosine(step: int, total: int) -> float:
    """Half a cosine wave from 1 at step 0 to 0 at step `total`."""
    return 0.5 * (1.0 + math.cos(math.pi * min(step, total) / total))


def warmup(step: int, steps: int) -> float:
    """Linear rise: (step + 1) / steps while step < `steps`, then 1."""
    return 1.0 if step >= steps else (step + 1) / steps


def warmup_poly(step: int, total: int, power: float, warmup_steps: int) -> float:
    """`poly` times a linear rise over the first `warmup_steps` steps."""
    return warmup(step, warmup_steps) * poly(step, total, power)


def schedule_of(options: OptimiserOptions) -> Schedule:
    """The schedule that the options name: (step, total steps) -> multiplier."""

    floor = options.minimum_rate / options.learning_rate
    end = options.final_rate / options.learning_rate

    def multiplier(step: int, total: int) -> float:
        falling = end + (1 - end) * course(step, total)
        return max(floor, warmup(step, options.warmup_steps) * falling)

    def course(step: int, total: int) -> float:
        if options.schedule == "poly":
            return poly(step, total, options.poly_power)
        return cosine(step, total) if options.schedule == "cosine" else constant(step, total)

    return multiplier
