"""The R3GAN pair (Huang et al., 2024, "The GAN is dead; long live the GAN!"): residual networks of inverted bottlenecks
with grouped convolutions and no normalization, after the paper's description.

It is modeled on the paper's configuration E. `patch_size` is an addition for CPUs: with 2 or 4 only the first layer of
the discriminator and the last of the generator work at the image's full size.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from src.core.types import ImageSize, PositiveInt
from src.networks.layers import Resample, channels_by_resolution

SLOPE = 0.2


class ResidualBlock(nn.Module):
    """An inverted bottleneck x + f(x): (N, C, H, W) -> (N, C, H, W).

    f is 1x1 -> grouped 3x3 -> 1x1, `expansion` times as wide inside, with leaky ReLUs after the first two.
    """

    def __init__(self, channels: int, expansion: int, group_size: int) -> None:
        super().__init__()
        hidden = channels * expansion
        # Channels per group must divide both hidden and group_size.
        groups = hidden // math.gcd(hidden, group_size)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.layers(inputs)


class R3GANGenerator(nn.Module):
    """A generator: latents (N, latent_dim) -> images (N, 3, H, W), unbounded.

    It has `width` channels at image_size / patch_size pixels, doubling up to `max_width` at 4, and `blocks` residual
    blocks at each size. The latents weight the channels of a learned 4x4 basis.
    """

    def __init__(
        self,
        image_size: ImageSize,
        latent_dim: PositiveInt,
        width: PositiveInt,
        max_width: PositiveInt,
        blocks: PositiveInt = 2,
        expansion: PositiveInt = 2,
        group_size: PositiveInt = 16,
        patch_size: Literal[1, 2, 4] = 1,
    ) -> None:
        super().__init__()
        channels, *narrowing = reversed(channels_by_resolution(2 * image_size // patch_size, width, max_width))
        self.basis = nn.Parameter(torch.randn(channels, 4, 4))
        self.weigh_basis = nn.Linear(latent_dim, channels, bias=False)
        layers: list[nn.Module] = [ResidualBlock(channels, expansion, group_size) for _ in range(blocks)]
        for narrower in narrowing:
            # A 1x1 convolution and resampling commute; at the smaller size it is cheaper.
            layers += [change_width(channels, narrower), Resample(narrower, up=True)]
            layers += [ResidualBlock(narrower, expansion, group_size) for _ in range(blocks)]
            channels = narrower
        if patch_size == 1:
            to_image: nn.Module = nn.Conv2d(channels, 3, 1, bias=False)
        else:
            to_image = nn.ConvTranspose2d(channels, 3, 2 * patch_size, patch_size, patch_size // 2, bias=False)
        self.layers = nn.Sequential(*layers, to_image)
        initialize(self)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(self.basis * self.weigh_basis(latents)[:, :, None, None])


class R3GANDiscriminator(nn.Sequential):
    """A discriminator: images (N, 3, H, W) -> logits (N,); the generator mirrored."""

    def __init__(
        self,
        image_size: ImageSize,
        width: PositiveInt,
        max_width: PositiveInt,
        blocks: PositiveInt = 2,
        expansion: PositiveInt = 2,
        group_size: PositiveInt = 16,
        patch_size: Literal[1, 2, 4] = 1,
    ) -> None:
        channels, *widening = channels_by_resolution(2 * image_size // patch_size, width, max_width)
        kernel_size = 2 * patch_size if patch_size > 1 else 1
        layers: list[nn.Module] = [nn.Conv2d(3, channels, kernel_size, patch_size, patch_size // 2, bias=False)]
        for wider in widening:
            layers += [ResidualBlock(channels, expansion, group_size) for _ in range(blocks)]
            layers += [Resample(channels, up=False), change_width(channels, wider)]
            channels = wider
        layers += [ResidualBlock(channels, expansion, group_size) for _ in range(blocks)]
        head = [nn.Conv2d(channels, channels, 4, groups=channels, bias=False), nn.Flatten()]
        super().__init__(*layers, *head, nn.Linear(channels, 1, bias=False), nn.Flatten(0))
        initialize(self)


def change_width(in_channels: int, out_channels: int) -> nn.Module:
    """Return a 1x1 convolution, or the identity if the number of channels stays."""
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, bias=False)


def initialize(network: nn.Module) -> None:
    """Initialize with normal weights that keep the variance (He et al., 2015), and each block as the identity.

    Fix-up (Zhang et al., 2019): in a network of L blocks with m = 3 layers the first two layers of a block are scaled
    by L^(-1 / (2m - 2)), the last is zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            fan_in = module.weight[0].numel()
            if isinstance(module, nn.ConvTranspose2d):
                # An output sums over the input channels, as often as kernels overlap there.
                fan_in = module.in_channels * math.prod(module.kernel_size) // math.prod(module.stride)
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    gain = math.sqrt(2 / (1 + SLOPE**2)) * len(blocks) ** -0.25
    with torch.no_grad():
        for block in blocks:
            first, _, grouped, _, last = block.layers
            first.weight.mul_(gain)  # type: ignore[operator]
            grouped.weight.mul_(gain)  # type: ignore[operator]
            last.weight.zero_()  # type: ignore[operator]
