"""Random transforms of batches on the training device, differentiable with respect to the images.

A GAN whose discriminator sees real and generated images through the same transforms learns the distribution of the
images before them, provided that each transform is skipped often enough (Karras et al., 2020, "Training generative
adversarial networks with limited data"; Zhao et al., 2020, "Differentiable augmentation"). Every other model learns
the transforms as part of the data, and its samples show them.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from src.core.distributed import all_gather
from src.core.schedules import Schedule, as_schedule
from src.core.types import Fraction, NonNegativeFloat, PositiveInt, Probability


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror the flipped images left and right: (N, 3, H, W), (N,) of bool -> (N, 3, H, W)."""
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def translate(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each image by whole pixels, negative ones up and left: (N, 3, H, W), (N,), (N,) -> (N, 3, H, W).

    Pixels from outside the image are mid-gray.
    """
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - down[:, None]
    columns = torch.arange(width, device=images.device) - right[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows = rows.clamp(0, height - 1)[:, None, :, None].expand_as(images)
    columns = columns.clamp(0, width - 1)[:, None, None, :].expand_as(images)
    return torch.where(inside[:, None], images.gather(2, rows).gather(3, columns), 0)


def recolor(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Change the colors of each image: (N, 3, H, W), (N,) each -> (N, 3, H, W).

    Rotate colors about the gray axis by hue (in turns), scale their distance from gray by saturation, then scale all
    by contrast and add brightness (Karras et al., 2020, appendix B).
    """
    unchanged = (brightness == 0) & (contrast == 1) & (saturation == 1) & (hue == 0)
    unchanged, brightness, contrast, saturation, hue = (
        values[:, None, None, None] for values in (unchanged, brightness, contrast, saturation, hue)
    )
    gray = images.mean(dim=1, keepdim=True)
    color = images - gray
    # The cross product with the unit vector of the gray axis.
    perpendicular = (color.roll(1, dims=1) - color.roll(-1, dims=1)) / math.sqrt(3)
    angle = 2 * math.pi * hue
    recolored = contrast * (gray + saturation * (angle.cos() * color + angle.sin() * perpendicular)) + brightness
    return torch.where(unchanged, images, recolored)


def cut_out(images: Tensor, row: Tensor, column: Tensor, size: int) -> Tensor:
    """Gray out a square of size x size pixels centered at (row, column): (N, 3, H, W), (N,), (N,) -> (N, 3, H, W).

    The square is clipped at the border (DeVries & Taylor, 2017). For an even size the center is the pixel below and
    right of the middle.
    """

    def within(length: int, center: Tensor) -> Tensor:
        distance = torch.arange(length, device=images.device) - center[:, None]
        return (distance >= -(size // 2)) & (distance < size - size // 2)

    height, width = images.shape[-2:]
    square = within(height, row)[:, :, None] & within(width, column)[:, None, :]
    return torch.where(square[:, None], 0, images)


class Augmentation(nn.Module):
    """Transforms, each applied to each image with the same probability, a number or a schedule.

    horizontal_flip: mirrored or not, with equal chance. translation: largest shift along each axis, as a share of the
    side. cutout: side of the gray square, as a share of the image's. brightness: largest value added to or subtracted
    from values in [-1, 1]. contrast, saturation: a factor from 1 - c to 1 + c. hue: largest rotation in turns, either
    way. All are uniformly distributed; 0 turns a transform off. Values are not clipped or resampled, and keep their
    precision.
    """

    def __init__(
        self,
        probability: Probability | Schedule,
        horizontal_flip: bool = False,
        translation: Fraction = 0.125,
        brightness: NonNegativeFloat = 0.5,
        contrast: Fraction = 0.5,
        saturation: Probability = 1.0,
        hue: Fraction = 0.0,
        cutout: Fraction = 0.5,
    ) -> None:
        super().__init__()
        self.schedule = as_schedule(probability)
        self.horizontal_flip, self.translation, self.cutout = horizontal_flip, translation, cutout
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def probability_at(self, images_seen: int) -> Tensor | float:
        """Return the probability of each transform."""
        return self.schedule(images_seen)

    def update(self, real_logits: Tensor, fake_logits: Tensor, images_seen: int) -> dict[str, Tensor]:
        """Adapt to this rank's logits (N,) of a discriminator step, if it is adaptive; return scalars to log."""
        return {"augmentation_probability": real_logits.new_full((), self.schedule(images_seen))}

    def forward(self, images: Tensor, images_seen: int) -> Tensor:
        """Return transformed images: (N, 3, H, W) -> (N, 3, H, W), bit-identical where no transform is applied."""
        return self.transform(images, self.probability_at(images_seen))

    def transform(self, images: Tensor, probability: Tensor | float) -> Tensor:
        """Apply each transform to each image with the probability: (N, 3, H, W) -> (N, 3, H, W)."""

        # The number of random numbers does not depend on the probability, and the host never waits for the device.
        def applied() -> Tensor:
            return torch.rand(len(images), device=images.device) < probability

        def uniform(extent: float) -> Tensor:
            values = torch.rand(len(images), device=images.device, dtype=images.dtype) * 2 - 1
            return torch.where(applied(), extent * values, 0)

        def pixels(extent: int) -> Tensor:
            values = torch.randint(-extent, extent + 1, (len(images),), device=images.device)
            return torch.where(applied(), values, 0)

        side = images.shape[-1]
        if self.horizontal_flip:
            images = flip(images, applied() & (torch.rand(len(images), device=images.device) < 0.5))
        if self.brightness or self.contrast or self.saturation or self.hue:
            brightness, contrast = uniform(self.brightness), 1 + uniform(self.contrast)
            saturation, hue = 1 + uniform(self.saturation), uniform(self.hue)
            images = recolor(images, brightness, contrast, saturation, hue)
        if extent := round(self.translation * side):
            images = translate(images, pixels(extent), pixels(extent))
        if size := round(self.cutout * side):
            row, column = torch.randint(side, (2, len(images)), device=images.device)
            images = torch.where(applied()[:, None, None, None], cut_out(images, row, column, size), images)
        return images


class AdaptiveAugmentation(Augmentation):
    """ADA: the probability rises while the discriminator overfits, and falls while it does not.

    It overfits while the mean sign of the real logits, averaged with a half-life of memory_images, is above target
    (Karras et al., 2020, section 3: r_t, over four batches). The zero of the logits is taken halfway between the means
    of real and generated images, because relativistic losses leave it undetermined.
    The probability moves by 1 over speed_images. It stays below maximum, above which generated images show the
    transforms. options: the transforms of Augmentation.
    """

    probability: Tensor
    overfitting: Tensor

    def __init__(
        self,
        target: Fraction = 0.6,
        speed_images: PositiveInt = 500_000,
        memory_images: PositiveInt = 256,
        maximum: Fraction = 0.8,
        **options: Any,
    ) -> None:
        super().__init__(probability=0.0, **options)
        self.target, self.speed_images, self.memory_images, self.maximum = target, speed_images, memory_images, maximum
        self.register_buffer("probability", torch.zeros(()))
        self.register_buffer("overfitting", torch.zeros(()))

    def probability_at(self, images_seen: int) -> Tensor | float:
        return self.probability

    @torch.no_grad()
    def update(self, real_logits: Tensor, fake_logits: Tensor, images_seen: int) -> dict[str, Tensor]:
        real, fake = all_gather(torch.stack([real_logits.float(), fake_logits.float()], dim=1)).unbind(1)
        sign = (real - (real.mean() + fake.mean()) / 2).sign().mean()
        self.overfitting.lerp_(sign.to(self.overfitting.dtype), 1 - 0.5 ** (len(real) / self.memory_images))
        step = (self.overfitting - self.target).sign() * (len(real) / self.speed_images)
        self.probability.add_(step).clamp_(0, self.maximum)
        return {"augmentation_probability": self.probability.clone(), "overfitting": self.overfitting.clone()}
