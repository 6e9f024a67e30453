"""Building blocks of several networks."""

import math

from torch import nn

from src.core.types import Normalization


def normalization_layer(kind: Normalization, channels: int) -> nn.Module:
    """Return a normalization layer.

    `group` normalizes groups of 16 or more channels of an image (Wu & He, 2018), `batch` each channel over the batch.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(channels, max(channels // 16, 1)), channels)
    return nn.Identity()


def channels_by_resolution(image_size: int, width: int, max_width: int) -> list[int]:
    """Return the channels at image_size / 2, / 4, ... down to 4 pixels: `width`, doubling up to `max_width`."""
    num_resolutions = int(math.log2(image_size)) - 2
    return [min(width * 2**level, max_width) for level in range(num_resolutions)]
