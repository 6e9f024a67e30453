"""Stops a program of somebody else's after so many processor seconds of training. Needs torch alone."""

import time
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook


class TimeUp(BaseException):
    """Raised in place of a step once the time is up; no `except Exception` of the program's catches it."""


def stop_after(seconds: float) -> None:
    """Raise TimeUp from an optimizer's step after so many processor seconds of this process since the first step."""
    began: list[float] = []

    def check(*_: Any) -> None:
        if not began:
            began.append(time.process_time())
        if time.process_time() - began[0] >= seconds:
            raise TimeUp

    register_optimizer_step_pre_hook(check)


def save_uint8(images: torch.Tensor, folder: Any) -> None:
    """Write images (N, 3, H, W) in [0, 1] to a folder as PNGs."""
    from PIL import Image

    pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:05d}.png")
