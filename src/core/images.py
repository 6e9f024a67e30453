"""Images inside are float in [-1, 1], (N, 3, H, W); outside uint8, which become grids and files here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from src.core.files import replaced

GAP = 2  # pixels between the images of a grid and around them


def to_uint8(images: Tensor) -> Tensor:
    """Convert [-1, 1] to {0, ..., 255}, rounded to nearest; the only way out to files, metrics and loggers."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """Convert {0, ..., 255} to [-1, 1] in float32; the only way in."""
    # In place, because memory traffic limits the speed.
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1)


def tile(images: Sequence[Tensor] | Tensor, columns: int) -> Tensor:
    """Arrange images, uint8 (3, H, W) each, on a white grid, `columns` a row: uint8 (3, H', W'). One stays as it is."""
    if len(images) == 1:
        return images[0].cpu()
    columns = min(columns, len(images))
    cells = torch.stack(list(images)).cpu()
    cells = pad(cells, (0, GAP, 0, GAP, 0, 0, 0, -len(cells) % columns), value=255)
    grid = cells.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    return pad(grid, (GAP, 0, GAP, 0), value=255)


def to_pillow(image: Tensor) -> Image.Image:
    """Convert an image, uint8 (3, H, W), to Pillow's."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def save_grid(images: Sequence[Tensor] | Tensor, path: Path, columns: int) -> Tensor:
    """Write images, uint8 (3, H, W) each, as one PNG with `columns` a row; return that grid, uint8 (3, H', W')."""
    grid = tile(images, columns)
    with replaced(path) as partial:
        to_pillow(grid).save(partial, "PNG")
    return grid


def save_placed(images: Mapping[tuple[int, int], Tensor], path: Path) -> None:
    """Write images, uint8 (3, H, W), each at its (row, column), as one PNG that is white where there is none."""
    rows, columns = (max(place[axis] for place in images) + 1 for axis in (0, 1))
    white = torch.full_like(next(iter(images.values())), 255)
    save_grid([images.get((row, column), white) for row in range(rows) for column in range(columns)], path, columns)
