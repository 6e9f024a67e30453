"""Sample grids from fixed noise over time, of each prior, and reconstructions for models that encode."""

from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from src.callbacks.periodic import PeriodicCallback, log_image
from src.core.images import from_uint8, save_grid, to_uint8
from src.core.types import PositiveInt, Seed
from src.models.base import GenerativeModel


class ImageGrids(PeriodicCallback):
    """Writes samples_<images seen>.png and, for models that encode, reconstructions_<images seen>.png.

    Rows of the latter are held-out images and below each its reconstruction. Once a mixture has been fitted to the
    latents, samples_mixture_<images seen>.png is written too. seed: of the samples' noise.
    """

    def __init__(
        self,
        folder: str,
        every_images: PositiveInt,
        num_images: PositiveInt = 64,
        columns: PositiveInt = 8,
        seed: Seed = 0,
    ) -> None:
        super().__init__(every_images)
        self.folder, self.num_images, self.columns, self.seed = Path(folder), num_images, columns, seed
        self.written: list[Path] = []

    def on_train_start(self, trainer: Trainer, model: Any) -> None:
        if model.images_seen == 0:
            self.run(trainer, model)

    @torch.no_grad()
    def run(self, trainer: Trainer, model: GenerativeModel) -> None:
        if not trainer.is_global_zero:
            return
        model.eval()
        grids = {}
        for prior in model.priors():
            generator = torch.Generator().manual_seed(self.seed)
            name = "samples" if prior == "normal" else f"samples_{prior}"
            grids[name] = model.sample(self.num_images, generator, prior), self.columns
        data = trainer.datamodule  # type: ignore[attr-defined]
        originals = data.images("val" if len(data.val) else "train")[: max(self.num_images // 2, 1)]
        originals = from_uint8(originals).to(model.device, model.dtype)
        reconstructions = model.reconstruct(originals)
        if reconstructions is not None:
            columns = min(self.columns, len(originals))
            pairs = zip(originals.split(columns), reconstructions.split(columns), strict=True)
            rows = [row for pair in pairs for row in pair if len(row) == columns]
            grids["reconstructions"] = torch.cat(rows), columns
        model.train()
        self.written = []
        for name, (images, columns) in grids.items():
            path = self.folder / f"{name}_{model.images_seen:09d}.png"
            log_image(trainer, name, save_grid(to_uint8(images), path, columns), model.images_seen)
            self.written.append(path)
