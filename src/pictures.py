"""Picture files: uint8 in, PNG out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid


def save_picture(picture: Tensor, path: Path) -> None:
    """uint8 (3, H, W) -> a PNG."""
    Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()).save(path)


def save_grid(pictures: Sequence[Tensor] | Tensor, path: Path, columns: int) -> Tensor:
    """uint8 pictures (3, H, W) -> one PNG with `columns` a row; returns it, uint8 (3, H', W')."""
    grid = make_grid(torch.stack(list(pictures)).cpu(), nrow=columns, padding=2, pad_value=255)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(grid, path)
    return grid
