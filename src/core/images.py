"""Images are float in [-1, 1], (N, 3, H, W), everywhere inside; these two functions are the only border."""

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> {0, ..., 255}, rounded to nearest; the only way out to files, metrics and loggers."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """{0, ..., 255} -> [-1, 1]; the only way in."""
    # In place: at full speed memory traffic is what counts.
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1)
