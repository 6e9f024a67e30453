"""The length of a run, in images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from src.core.errors import UserError
from src.core.types import PositiveInt


@dataclass(eq=False)
class RunLength(Callback):
    """Stops after max_images, rounded up to a batch. It must be the first callback."""

    max_images: PositiveInt

    def on_train_start(self, trainer: Trainer, model: Any) -> None:
        if model.images_seen < self.max_images:
            return
        finished = f"the checkpoint has seen {model.images_seen:,} images already; give max_images above that to go on"
        if Path(trainer.ckpt_path or "").absolute().parent.parent != Path(trainer.default_root_dir).absolute():
            raise UserError(finished)
        # The run may have been killed between its last checkpoint and its summary.
        trainer.should_stop = True
        if trainer.is_global_zero:
            print(f"nothing left to do: {finished}", flush=True)

    def on_train_batch_end(self, trainer: Trainer, model: Any, *args: Any) -> None:
        trainer.should_stop = model.images_seen >= self.max_images
