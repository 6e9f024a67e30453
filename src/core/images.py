"""Conversions between uint8 and the images used everywhere inside: float in [-1, 1], (N, 3, H, W); grids."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

GAP = 2  # pixels between the images of a grid and around them


def to_uint8(images: Tensor) -> Tensor:
    """Convert [-1, 1] to {0, ..., 255}, rounded to nearest; the only way out to files, metrics and loggers."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """Convert {0, ..., 255} to [-1, 1] in float32; the only way in."""
    # In place, because memory traffic limits the speed.
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1)


def tile(images: Sequence[Tensor] | Tensor, columns: int) -> Tensor:
    """Arrange images, uint8 (3, H, W) each, on a white grid, `columns` a row: uint8 (3, H', W'). One stays as it is."""
    if len(images) == 1:
        return images[0].cpu()
    columns = min(columns, len(images))
    channels, height, width = images[0].shape
    step_down, step_right = height + GAP, width + GAP
    size = channels, math.ceil(len(images) / columns) * step_down + GAP, columns * step_right + GAP
    grid = torch.full(size, 255, dtype=torch.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * step_down + GAP, index % columns * step_right + GAP
        grid[:, top : top + height, left : left + width] = image
    return grid
