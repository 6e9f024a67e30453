"""A photo of one's own: the square of it that is looked at, and the latent whose image is most like it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from src.core.images import from_uint8
from src.data.decoding import Decoding
from src.data.head_crops import cat_square
from src.evaluation.latent_space import decode
from src.explorer.opened import lite0
from src.models.inference import LatentModel

PROJECTION_STEPS, CANDIDATES, RATE = 200, 256, 0.1
PIXEL_WEIGHT, FEATURE_WEIGHT, PRIOR_WEIGHT = 1.0, 1.0, 0.02


def find_square(photo: Image.Image) -> tuple[int, int, int]:
    """Return left, top and side of the square that data.crop=cat takes of a photo; without a cat, of its middle."""
    side = min(photo.size)
    middle = (photo.width - side) // 2, (photo.height - side) // 2, (photo.width + side) // 2
    left, top, right = (cat_square(photo) or middle)[:3]
    return left, top, right - left


def cropped(photo: Image.Image, square: Sequence[int], image_size: int) -> Tensor:
    """Return a square of a photo, or the nearest one within it, as a model's input: uint8 (3, S, S)."""
    side = max(1, min(square[2], *photo.size))
    left, top = min(square[0], photo.width - side), min(square[1], photo.height - side)
    return torch.from_numpy(Decoding(image_size).square(photo.crop((left, top, left + side, top + side))).copy())


def project(
    model: LatentModel, target: Tensor, report: Callable[[float, str], Any], steps: int = PROJECTION_STEPS
) -> Tensor:
    """Return the latent (D,) whose image is most like a uint8 image (3, S, S), by optimizing it.

    The loss is the mean squared error of pixels, that of EfficientNet-Lite0's features in relation to their own size,
    and a term that keeps the latent where N(0, I) has it. It begins at the most similar of CANDIDATES samples.
    """
    network, device = lite0(model.device), model.device

    def loss(latents: Tensor) -> Tensor:
        made = model.decode(latents.to(model.dtype)).float()
        features = network.extract(made * 127.5 + 127.5)
        pixels = (made - wanted).square().mean(dim=(1, 2, 3))
        distance = (features - wanted_features).square().sum(dim=1) / wanted_features.square().sum()
        prior = (latents.square().mean(dim=1) - 1).clamp(min=0)
        return PIXEL_WEIGHT * pixels + FEATURE_WEIGHT * distance + PRIOR_WEIGHT * prior

    wanted = from_uint8(target[None]).to(device)
    with torch.no_grad():
        wanted_features = network.extract(target[None].to(device))
        candidates = model.sample_prior(CANDIDATES, torch.Generator().manual_seed(0)).to(device)
        losses = torch.cat([loss(some) for some in candidates.split(8)])
    latent = candidates[losses.argmin()][None].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([latent], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, lowest = latent.detach().clone(), float("inf")
    for step in range(steps):
        value = loss(latent)
        if value.item() < lowest:
            best, lowest = latent.detach().clone(), value.item()
        optimizer.zero_grad()
        value.sum().backward()
        optimizer.step()
        schedule.step()
        report((step + 1) / steps, f"step {step + 1} of {steps}, error {lowest:.3f}")
    return best[0].cpu()


def errors(model: LatentModel, target: Tensor, latent: Tensor) -> tuple[float, float]:
    """Return how far the image of a latent is from another, uint8 (3, S, S): the root mean square of the pixels'
    differences, out of 255, and the distance of their features of length 1, at most sqrt(2)."""
    images = torch.stack([decode(model, latent), target])
    pixels = mse_loss(*images.float()).sqrt()
    one, other = normalize(lite0(model.device)(images.to(model.device)))
    return pixels.item(), (one - other).norm().item()
