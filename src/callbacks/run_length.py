"""How long a run is, in images, and when something is due."""

from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from src.core.errors import UserError
from src.core.types import PositiveInt
from src.models.base import GenerativeModel


class RunLength(Callback):
    """Stops after max_images, rounded up to a batch. Must be the first callback."""

    def __init__(self, max_images: PositiveInt) -> None:
        self.max_images = max_images

    def on_train_start(self, trainer: Trainer, model: GenerativeModel) -> None:  # type: ignore[override]
        if model.images_seen < self.max_images:
            return
        finished = f"the checkpoint has seen {model.images_seen:,} images already; give max_images above that to go on"
        if Path(trainer.ckpt_path or "").absolute().parent.parent != Path(trainer.default_root_dir).absolute():
            raise UserError(finished)
        # It may have been killed between its last checkpoint and its summary.
        trainer.should_stop = True
        if trainer.is_global_zero:
            print(f"nothing left to do: {finished}", flush=True)

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        trainer.should_stop = model.images_seen >= self.max_images
