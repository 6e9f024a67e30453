"""A number that changes over a run, as a function of the images seen by all processes together.

Wherever a constructor says `Schedule`, a config gives a number (constant) or one of these classes.
"""

import math
from collections.abc import Callable

from src.core.types import NonNegativeInt, PositiveFloat, PositiveInt

Schedule = Callable[[int], float]


def as_schedule(value: float | Schedule) -> Schedule:
    """A number stands for itself at every time."""
    return value if callable(value) else Constant(value)


class Constant:
    """The same at every time."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, images_seen: int) -> float:
        return self.value


class Linear:
    """From `start` to `end` in a straight line over over_images, after start_images at `start`; then `end`."""

    def __init__(self, start: float, end: float, over_images: PositiveInt, start_images: NonNegativeInt = 0) -> None:
        self.start, self.end, self.over_images, self.start_images = start, end, over_images, start_images

    def __call__(self, images_seen: int) -> float:
        return self.start + (self.end - self.start) * progress(images_seen, self.over_images, self.start_images)


class Cosine:
    """From `start` to `end` along half a cosine (Loshchilov & Hutter, 2017): slow at both ends, never back."""

    def __init__(self, start: float, end: float, over_images: PositiveInt, start_images: NonNegativeInt = 0) -> None:
        self.start, self.end, self.over_images, self.start_images = start, end, over_images, start_images

    def __call__(self, images_seen: int) -> float:
        passed = progress(images_seen, self.over_images, self.start_images)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * passed))


class Cyclical:
    """From `start` to `end` in a straight line over the first `rising` part of every period, then `end` till its end
    (Fu et al., 2019, "Cyclical annealing schedule")."""

    def __init__(self, start: float, end: float, period_images: PositiveInt, rising: PositiveFloat = 0.5) -> None:
        self.start, self.end, self.period_images, self.rising = start, end, period_images, rising

    def __call__(self, images_seen: int) -> float:
        within = images_seen % self.period_images / self.period_images
        return self.start + (self.end - self.start) * min(within / self.rising, 1.0)


def progress(images_seen: int, over_images: int, start_images: int) -> float:
    """0 until start_images, 1 from over_images later on."""
    return min(max((images_seen - start_images) / over_images, 0.0), 1.0)
