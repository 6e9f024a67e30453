"""Numbers that change over a run, as functions of the images seen by all ranks together.

Where a constructor takes a `Schedule`, a config gives a number (constant) or one of these classes.
"""

import math
from collections.abc import Callable

from src.core.types import NonNegativeInt, PositiveFloat, PositiveInt

Schedule = Callable[[int], float]


def as_schedule(value: float | Schedule) -> Schedule:
    """Return a schedule as it is, and a number as a constant schedule."""
    return value if callable(value) else lambda images_seen: value


class Linear:
    """A straight line from `start` to `end` over over_images, after start_images at `start`; constant afterwards."""

    def __init__(self, start: float, end: float, over_images: PositiveInt, start_images: NonNegativeInt = 0) -> None:
        self.start, self.end, self.over_images, self.start_images = start, end, over_images, start_images

    def progress(self, images_seen: int) -> float:
        """Return the share of over_images that has passed since start_images, in [0, 1]."""
        return min(max((images_seen - self.start_images) / self.over_images, 0.0), 1.0)

    def __call__(self, images_seen: int) -> float:
        return self.start + (self.end - self.start) * self.progress(images_seen)


class Cosine(Linear):
    """Half a cosine in place of Linear's straight line (Loshchilov & Hutter, 2017, without restarts)."""

    def __call__(self, images_seen: int) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * self.progress(images_seen)))


class Cyclical:
    """In every period a straight line from `start` to `end` over the share `rising` of it, then constant.

    Fu et al. (2019), "Cyclical annealing schedule".
    """

    def __init__(self, start: float, end: float, period_images: PositiveInt, rising: PositiveFloat = 0.5) -> None:
        self.start, self.end, self.period_images, self.rising = start, end, period_images, rising

    def __call__(self, images_seen: int) -> float:
        within = images_seen % self.period_images / self.period_images
        return self.start + (self.end - self.start) * min(within / self.rising, 1.0)
