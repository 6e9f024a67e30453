"""Image files: uint8 in, PNG or a moving image out."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid


def to_pillow(image: Tensor) -> Image.Image:
    """uint8 (3, H, W)."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def save_image(image: Tensor, path: Path) -> None:
    """uint8 (3, H, W) -> a PNG."""
    to_pillow(image).save(path)


def tile(images: Sequence[Tensor] | Tensor, columns: int) -> Tensor:
    """uint8 images (3, H, W) -> one, uint8 (3, H', W'), with `columns` a row."""
    return make_grid(torch.stack(list(images)).cpu(), nrow=columns, padding=2, pad_value=255)


def save_grid(images: Sequence[Tensor] | Tensor, path: Path, columns: int) -> Tensor:
    """uint8 images (3, H, W) -> one PNG with `columns` a row; returns it, uint8 (3, H', W')."""
    grid = tile(images, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(grid, path)
    return grid


def save_placed(images: Mapping[tuple[int, int], Tensor], path: Path) -> None:
    """uint8 images (3, H, W) at their row and column -> one PNG, white where there is none."""
    rows, columns = (max(place[axis] for place in images) + 1 for axis in (0, 1))
    white = torch.full_like(next(iter(images.values())), 255)
    save_grid([images.get((row, column), white) for row in range(rows) for column in range(columns)], path, columns)


def animation_bytes(frames: Sequence[Tensor], suffix: str, frames_per_second: float = 12) -> bytes:
    """uint8 (3, H, W) each -> the content of a .webp, .gif or .apng that loops for ever."""
    first, *others = [to_pillow(frame) for frame in frames]
    options = {"quality": 80, "method": 4} if suffix == ".webp" else {}
    kind = {".webp": "WEBP", ".gif": "GIF", ".apng": "PNG"}[suffix]
    duration_ms = round(1000 / frames_per_second)
    with io.BytesIO() as file:
        first.save(file, kind, save_all=True, append_images=others, duration=duration_ms, loop=0, **options)
        return file.getvalue()
