"""Building blocks of several networks."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

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


class SelfModulation(nn.Module):
    """Normalizes features, then scales and shifts each channel by values computed from the latents (Chen et al., 2019).

    features (N, C, H, W), latents (N, latent_dim) -> (N, C, H, W).
    """

    def __init__(self, kind: Normalization, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.normalization = normalization_layer(kind, channels)
        self.modulation = nn.Linear(latent_dim, 2 * channels)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        scale, shift = self.modulation(latents)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, self.normalization(features), 1 + scale)


class Resample(nn.Module):
    """Bilinear resampling with the filter [1, 3, 3, 1]: (N, C, H, W) -> (N, C, 2H, 2W) or (N, C, H/2, W/2)."""

    kernel: Tensor

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.channels, self.up = channels, up
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / (4 if up else 8)
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None], persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        # A depthwise convolution: ten times as fast as interpolate() on CPUs, and equal to it except at the border.
        resample = conv_transpose2d if self.up else conv2d
        kernel = self.kernel.expand(self.channels, 1, 4, 4)
        return resample(inputs, kernel, stride=2, padding=1, groups=self.channels)
