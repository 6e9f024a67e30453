"""Antialiased shapes over flattened images, numpy only.

A field is float32 (N, P): a value for each of P pixels of N images; (N, 1) is a value for each image.
Distances are signed, negative inside, in the unit of the coordinates.
"""

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating]


def coverage(distance: Field, softness: Field | float) -> Field:
    """Return 1 inside, 0 outside, a ramp of width `softness` across the edge (a pixel for a crisp one)."""
    return np.clip(0.5 - distance / softness, 0, 1)


def stroke(distance: Field, half_width: Field | float, pixel: Field) -> Field:
    """Return the share of a pixel that a line covers, given the distance to its middle: right for hairlines too."""
    half = pixel / 2
    inside = np.minimum(distance + half, half_width) - np.maximum(distance - half, -half_width)
    return np.clip(inside / pixel, 0, 1)


def bump(x: Field, y: Field, x_radius: Field | float, y_radius: Field | float) -> Field:
    """Return a smooth hill: 1 at the origin, 0 outside the ellipse."""
    height = np.maximum(1 - np.square(x / x_radius) - np.square(y / y_radius), 0)
    return height * height


def ellipse(x: Field, y: Field, x_radius: Field | float, y_radius: Field | float) -> Field:
    """Return the distance to an ellipse, to first order."""
    x, y = x / x_radius, y / y_radius
    level = np.sqrt(x * x + y * y)
    slope = np.sqrt(np.square(x / x_radius) + np.square(y / y_radius)) + 1e-6
    return level * (level - 1) / slope


def ramp(x: Field, start: Field | float, end: Field | float) -> Field:
    """Return a smoothstep from 0 at `start` to 1 at `end`."""
    x = np.clip((x - start) / (end - start), 0, 1)
    return x * x * (3 - 2 * x)


def rotate(x: Field, y: Field, radians: Field | float) -> tuple[Field, Field]:
    """Return coordinates in axes turned by an angle from x towards y."""
    cosine, sine = np.cos(radians), np.sin(radians)
    return x * cosine + y * sine, y * cosine - x * sine


def blend(under: Field, over: Field, alpha: Field) -> None:
    """Lay a color (N, 3, P or 1) over an image (N, 3, P) in place, as opaque as `alpha` (N, P)."""
    under += alpha[:, None] * (over - under)


def lerp(a: Field, b: Field, t: Field | float) -> Field:
    """Interpolate linearly: a at t = 0, b at t = 1."""
    return a + (b - a) * t
