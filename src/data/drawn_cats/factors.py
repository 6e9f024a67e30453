"""Endless cat faces whose factors of variation are known, from numpy alone.

`draw_factors` says what cat number `index` looks like; `draw_cats` draws it, at any size from the same shapes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.data.drawn_cats.painter import COATS, PATTERNS, CatPainter


class Factor(NamedTuple):
    """One column of the factors: uniform in [low, high], or one of `choices`, stored as its position."""

    name: str
    low: float = -1
    high: float = 1
    choices: tuple[str, ...] = ()


FACTORS: tuple[Factor, ...] = (
    Factor("coat", 0, len(COATS) - 1, COATS),
    Factor("pattern", 0, len(PATTERNS) - 1, PATTERNS),
    Factor("tone"),  # dark to light fur
    Factor("marking_size"),
    Factor("marking_shift"),  # to the left or the right of the face
    Factor("eye_hue", 0, 1),  # copper, amber, green, blue; always blue with points
    Factor("eye_size"),
    Factor("eye_openness"),
    Factor("pupil_width", 0, 1),  # slit to round
    Factor("gaze"),  # left to right
    Factor("ear_size"),
    Factor("ear_tilt"),  # upright to sideways
    Factor("head_width"),
    Factor("fluff", 0, 1),  # of the cheeks
    Factor("muzzle_size"),
    Factor("nose_tone", 0, 1),  # pink to dark
    Factor("whisker_lift"),  # drooping to perky
    Factor("shift_x"),
    Factor("shift_y"),
    Factor("scale"),
    Factor("roll"),  # the head leans to one side
    Factor("yaw"),  # the face turns, the outline stays
    Factor("backdrop", 0, 1),  # background hue, once around the circle
    Factor("light"),  # from the left to from the right
)


def draw_factors(indices: NDArray[np.integer], seed: int) -> NDArray[np.float32]:
    """Return the factors of images: indices (N,) -> (N, F), independent of each other, in the order of FACTORS.

    A pure function of (seed, index): SplitMix64 (Steele et al., 2014) as a hash.
    """
    step = np.uint64(0x9E3779B97F4A7C15)
    stream = _hash(np.array([seed % 2**64], np.uint64))
    images = _hash(stream + step * np.asarray(indices).astype(np.uint64))
    bits = _hash(images[:, None] + step * np.arange(1, len(FACTORS) + 1, dtype=np.uint64))
    uniform = (bits >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
    low = np.array([factor.low for factor in FACTORS], np.float32)
    high = np.array([factor.high for factor in FACTORS], np.float32)
    discrete = np.array([bool(factor.choices) for factor in FACTORS])
    return np.where(discrete, np.floor(uniform * (high + 1)), low + (high - low) * uniform)


def draw_cats(factors: NDArray[np.float32], image_size: int) -> NDArray[np.uint8]:
    """Draw factors (N, F) as antialiased RGB images (N, 3, image_size, image_size), each a pure function of its row.

    Choices are rounded to the nearest. Factors must be in their ranges.
    """
    images = np.empty((len(factors), 3, image_size, image_size), np.uint8)
    patterns = np.rint(factors[:, [factor.name for factor in FACTORS].index("pattern")])
    chunk = max(1, 8 * 64**2 // image_size**2)  # as many as the processor's cache holds
    for pattern, name in enumerate(PATTERNS):
        rows = np.flatnonzero(patterns == pattern)
        for start in range(0, len(rows), chunk):
            some = rows[start : start + chunk]
            columns = np.ascontiguousarray(factors[some].T, dtype=np.float32)[:, :, None]
            named = {factor.name: column for factor, column in zip(FACTORS, columns, strict=True)}
            colors = CatPainter(name, named, image_size).paint()
            images[some] = (colors * 255 + 0.5).reshape(-1, 3, image_size, image_size)
    return images


def _hash(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
