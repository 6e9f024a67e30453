"""Image files: uint8 in, PNG or a moving image out."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from src.core.images import tile


def to_pillow(image: Tensor) -> Image.Image:
    """Convert an image, uint8 (3, H, W), to Pillow's."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def save_image(image: Tensor, path: Path) -> None:
    """Write an image, uint8 (3, H, W), as a PNG."""
    to_pillow(image).save(path)


def save_grid(images: Sequence[Tensor] | Tensor, path: Path, columns: int) -> Tensor:
    """Write images, uint8 (3, H, W) each, as one PNG with `columns` a row; return that grid, uint8 (3, H', W')."""
    grid = tile(images, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(grid, path)
    return grid


def save_placed(images: Mapping[tuple[int, int], Tensor], path: Path) -> None:
    """Write images, uint8 (3, H, W), each at its (row, column), as one PNG that is white where there is none."""
    rows, columns = (max(place[axis] for place in images) + 1 for axis in (0, 1))
    white = torch.full_like(next(iter(images.values())), 255)
    save_grid([images.get((row, column), white) for row in range(rows) for column in range(columns)], path, columns)


def animation_bytes(frames: Sequence[Tensor], suffix: str, frames_per_second: float = 12) -> bytes:
    """Return the content of a .webp, .gif or .apng of the frames, uint8 (3, H, W) each, that loops for ever."""
    first, *others = [to_pillow(frame) for frame in frames]
    options = {"quality": 80, "method": 4} if suffix == ".webp" else {}
    kind = {".webp": "WEBP", ".gif": "GIF", ".apng": "PNG"}[suffix]
    duration_ms = round(1000 / frames_per_second)
    with io.BytesIO() as file:
        first.save(file, kind, save_all=True, append_images=others, duration=duration_ms, loop=0, **options)
        return file.getvalue()
