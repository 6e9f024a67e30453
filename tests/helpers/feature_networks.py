"""A feature network that costs nothing, and images that need no file."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from src.metrics.features import FeatureNetwork


class PatchMeans(FeatureNetwork):
    """Means of the colors of a image's four quarters."""

    name = "patches"
    num_features = 12
    digest = "stand-in"

    def extract(self, images: Tensor) -> Tensor:
        return avg_pool2d(images.float() / 255, kernel_size=images.shape[-1] // 2).flatten(1)


def smooth_images(count: int, seed: int, size: int = 64, contrast: float = 60.0) -> Tensor:
    """Random smooth uint8 images, (count, 3, size, size)."""
    noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (interpolate(noise, size=size, mode="bilinear") * contrast + 128).clamp(0, 255).to(torch.uint8)


def gaussian_sample(count: int, dimensions: int, seed: int) -> Tensor:
    """Correlated float64 samples, (count, dimensions)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64) @ mixing
