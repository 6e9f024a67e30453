"""Images of a GAN trained with augmentation show no shift, no tint and no cutout."""

import pytest
import torch
from torch import Tensor

from src.networks.augmentation import Augmentation
from tests.helpers.tiny import SteppedGAN, tiny_gan

BACKGROUND = torch.tensor([0.5, 0.0, -0.5])
MAX_IMAGES, BATCH_SIZE = 6_400, 32


def blobs(count: int) -> Tensor:
    """Return images (count, 3, 32, 32): a dark blob within a pixel of the middle, on almost the same color."""
    generator = torch.Generator().manual_seed(0)
    centers = 15.5 + 2 * torch.rand(count, 2, 1, generator=generator) - 1
    falloff = torch.exp(-((torch.arange(32) - centers).square()) / (2 * 5**2))
    blob = falloff[:, 0, :, None] * falloff[:, 1, None, :]
    background = BACKGROUND + 0.04 * torch.randn(count, 3, generator=generator)
    return torch.lerp(background[:, :, None, None], torch.tensor(-1.0), blob[:, None]).clamp(-1, 1)


def described(images: Tensor) -> dict[str, float]:
    """Measure what the transforms change, averaged: the distance of the blob from the middle column, of the corners
    from their color, and the share of gray pixels."""
    dark = (-images.amax(dim=1)).clamp(min=0.2) - 0.2
    columns = (dark.sum(dim=1) * torch.arange(32)).sum(dim=1) / dark.sum(dim=(1, 2)).clamp(min=1e-3)
    corners = torch.cat([images[:, :, :4, :4], images[:, :, -4:, -4:]], dim=2)
    tint = corners.median(dim=3).values.median(dim=2).values - BACKGROUND
    values = {
        "shift": (columns - 15.5).abs(),
        "tint": tint.abs(),
        "cut": (images.abs() < 0.15).all(dim=1).float(),
    }
    return {name: float(value.mean()) for name, value in values.items()}


def leaks(of_data: Augmentation | None, of_model: Augmentation | None) -> dict[str, float]:
    """Return where generated images are between the real ones (0) and the augmented ones (1)."""
    images = blobs(512)
    gan = tiny_gan(SteppedGAN, augmentation=of_model, ema_halflife_images=2_000.0)
    torch.manual_seed(0)
    for _ in range(MAX_IMAGES // BATCH_SIZE):
        batch = images[torch.randint(len(images), (BATCH_SIZE,))]
        gan.training_step(of_data(batch, 0) if of_data else batch, 0)
    augmentation = of_data or of_model
    assert augmentation
    real, augmented = described(images), described(augmentation(images, 0))
    generated = described(gan.eval().sample(256))
    return {name: (generated[name] - real[name]) / (augmented[name] - real[name]) for name in real}


@pytest.mark.slow
@pytest.mark.parametrize("probability", [0.5, 0.8])
def test_generated_images_do_not_show_the_transforms(probability: float) -> None:
    found = leaks(None, Augmentation(probability, translation=0.25))
    assert max(found.values()) < 0.3


@pytest.mark.slow
def test_generated_images_show_transforms_of_the_real_images_alone() -> None:
    found = leaks(Augmentation(0.8, translation=0.25), None)
    assert min(found.values()) > 0.3
