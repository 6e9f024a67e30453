"""Sample grids from fixed noise over time, of each prior, and reconstructions for models that encode."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from src.callbacks.periodic import PeriodicCallback
from src.core.images import from_uint8, save_grid, to_uint8
from src.core.types import GridImages, Seed
from src.models.base import GenerativeModel


@dataclass(eq=False)
class ImageGrids(PeriodicCallback):
    """Writes samples_<images seen>.png and, for models that encode, reconstructions_<images seen>.png.

    Rows of the latter are held-out images and below each its reconstruction. Once a mixture has been fitted to the
    latents, samples_mixture_<images seen>.png is written too. seed: of the samples' noise.
    """

    folder: str
    num_images: GridImages = 64
    columns: GridImages = 8
    seed: Seed = 0

    def __post_init__(self) -> None:
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
        if model.encoder is not None:
            data = trainer.datamodule  # type: ignore[attr-defined]
            originals = data.images("val" if len(data.val) else "train")[: max(self.num_images // 2, 1)]
            originals = from_uint8(originals).to(model.device, model.dtype)
            columns = min(self.columns, len(originals))
            pairs = zip(originals.split(columns), model.reconstruct(originals).split(columns), strict=True)
            rows = [row for pair in pairs for row in pair if len(row) == columns]
            grids["reconstructions"] = torch.cat(rows), columns
        model.train()
        self.written = []
        for name, (images, columns) in grids.items():
            path = Path(self.folder, f"{name}_{model.images_seen:09d}.png")
            grid = save_grid(to_uint8(images), path, columns)
            self.written.append(path)
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image(name, [grid.permute(1, 2, 0).numpy()], step=model.images_seen)
                elif isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(name, grid, model.images_seen)
