"""Drawn cats as a source of images: no download, and every factor of variation is known."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.data.archives import ImageFile
from src.data.cache.builder import CachedSource
from src.data.cache.manifest import DecodedImage
from src.data.dataset import ImageDataset
from src.data.drawn_cats import factors, painter, shapes
from src.data.drawn_cats.factors import draw_cats, draw_factors


class DrawnCats(CachedSource):
    """Cats drawn by a program, num_images of them: image number i depends on the seed and i alone."""

    title = "drawn-cats"
    chunk = 64

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images, self.seed = num_images, seed
        self.identity = f"{num_images} drawn cats of seed {seed}"
        self.description = f"{num_images:,} drawn cats (embedded; data=cat_faces has real ones)"

    def load(self, image_size: int, cache_dir: str | Path | None = None) -> ImageDataset:
        return replace(super().load(image_size, cache_dir), factors=torch.from_numpy(self.factors()))

    def factors(self) -> np.ndarray:
        return draw_factors(np.arange(self.num_images), self.seed)

    def options(self, image_size: int) -> dict[str, Any]:
        return {"image_size": image_size, "drawing_program": program_digest()}

    def files(self) -> list[ImageFile]:
        return [ImageFile(f"drawn_{index:05d}", row.tobytes) for index, row in enumerate(self.factors())]

    def decode(self, files: list[ImageFile], image_size: int) -> list[DecodedImage]:
        rows = [file.read() for file in files]
        cats = draw_cats(np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), -1), image_size)
        return [
            DecodedImage(file.name, hashlib.sha256(row).hexdigest(), cat, (image_size, image_size))
            for file, row, cat in zip(files, rows, cats, strict=True)
        ]


def program_digest() -> str:
    """Return a digest of the source code that draws."""
    files = [Path(str(module.__file__)) for module in (factors, painter, shapes)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
