"""Conversions between uint8 and the images used everywhere inside: float in [-1, 1], (N, 3, H, W)."""

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Convert [-1, 1] to {0, ..., 255}, rounded to nearest; the only way out to files, metrics and loggers."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """Convert {0, ..., 255} to [-1, 1] in float32; the only way in."""
    # In place, because memory traffic limits the speed.
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1)
