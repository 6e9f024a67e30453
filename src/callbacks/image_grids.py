"""Sample grids from fixed noise over time, of each prior, and reconstructions for models that encode."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from src.callbacks.periodic import PeriodicCallback
from src.core.files import write_atomic
from src.core.films import FilmKind, film_bytes
from src.core.images import from_uint8, save_grid, to_uint8
from src.core.run_folder import FILM
from src.core.types import GridImages, Seed
from src.models.base import GenerativeModel

MAX_FRAMES, HELD_FRAMES = 60, 6  # of the film of a run, and how long it stays at the end


@dataclass(eq=False)
class ImageGrids(PeriodicCallback):
    """Writes samples_<images seen>.png and, for models that encode, reconstructions_<images seen>.png.

    Rows of the latter are held-out images and below each its reconstruction. Samples of a fitted mixture are
    samples_mixture_<images seen>.png. At the end growing_up.webp shows the samples over the run.
    """

    folder: str
    num_images: GridImages = 64
    columns: GridImages = 8
    seed: Seed = 0

    def on_train_start(self, trainer: Trainer, model: Any) -> None:
        if model.images_seen == 0:
            self.run(trainer, model)

    def on_train_end(self, trainer: Trainer, model: Any) -> None:
        grids = sorted(Path(self.folder).glob("samples_[0-9]*.png"))
        if trainer.is_global_zero and grids:
            write_atomic(film := Path(self.folder, FILM), growing_up(grids))
            for logger in trainer.loggers:
                if hasattr(logger, "log_video"):  # W&B does not play WebP
                    gif = io.BytesIO(growing_up(grids, "gif"))
                    logger.log_video(film.stem, [gif], step=model.images_seen, format=["gif"])

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
        for name, (images, columns) in grids.items():
            grid = save_grid(to_uint8(images), Path(self.folder, f"{name}_{model.images_seen:09d}.png"), columns)
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image(name, [grid.permute(1, 2, 0).numpy()], step=model.images_seen)
                elif isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(name, grid, model.images_seen)


def growing_up(grids: list[Path], kind: FilmKind = "webp") -> bytes:
    """Return a film of a run's grids, PNG files of increasing images seen; it stays at the last one."""
    # Early grids change most; of more than MAX_FRAMES, evenly many are shown.
    chosen = torch.linspace(0, len(grids) - 1, min(len(grids), MAX_FRAMES)).round().int().tolist()
    frames = [pil_to_tensor(Image.open(grids[index]).convert("RGB")) for index in chosen]
    shown = [frame for frame in frames if frame.shape == frames[-1].shape]  # a resumed run may have other options
    return film_bytes([*shown, *[shown[-1]] * HELD_FRAMES], kind, frames_per_second=3)
