"""Sample grids from fixed noise over time, of each prior, and reconstructions for models that encode."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from src.callbacks.periodic import log_image, should_run
from src.core.image_files import save_grid
from src.core.images import from_uint8, to_uint8
from src.core.types import PositiveInt, Seed
from src.models.base import GenerativeModel


class ImageGrids(Callback):
    """Writes images/samples_<images seen>.png and, for encoders, reconstructions_<images seen>.png, whose rows are
    held-out images and below each what the model makes of it, and samples_mixture_<images seen>.png once a mixture
    has been fitted on the codes. seed fixes the noise."""

    def __init__(
        self,
        folder: str,
        every_images: PositiveInt,
        num_images: PositiveInt = 64,
        columns: PositiveInt = 8,
        seed: Seed = 0,
    ) -> None:
        self.folder, self.every_images = Path(folder), every_images
        self.num_images, self.columns, self.seed = num_images, columns, seed
        self.written: list[Path] = []

    def on_train_start(self, trainer: Trainer, model: GenerativeModel) -> None:  # type: ignore[override]
        if model.images_seen == 0:
            self.write(trainer, model)

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        if should_run(trainer, model, self.every_images):
            self.write(trainer, model)

    @torch.no_grad()
    def write(self, trainer: Trainer, model: GenerativeModel) -> None:
        if not trainer.is_global_zero:
            return
        model.eval()
        grids = {
            "samples" if prior == "normal" else f"samples_{prior}": model.sample(
                self.num_images, torch.Generator().manual_seed(self.seed), prior
            )
            for prior in model.priors()
        }
        data = trainer.datamodule  # type: ignore[attr-defined]
        originals = data.images("val" if len(data.val) else "train")[: max(self.num_images // 2, 1)]
        originals = from_uint8(originals).to(model.device, model.dtype)
        reconstructions = model.reconstruct(originals)
        if reconstructions is not None:
            rows = [
                row
                for pair in zip(originals.split(self.columns), reconstructions.split(self.columns), strict=True)
                for row in pair
                if len(row) == self.columns
            ]
            grids["reconstructions"] = torch.cat(rows or [originals, reconstructions])
        model.train()
        self.written = []
        for name, images in grids.items():
            path = self.folder / f"{name}_{model.images_seen:09d}.png"
            # Fewer held-out images than columns: what the model makes of them still stands below them.
            columns = self.columns if name != "reconstructions" else min(self.columns, len(originals))
            image = save_grid(to_uint8(images), path, columns)
            log_image(trainer, name, image, model.images_seen)
            self.written.append(path)
