"""last.ckpt and best.ckpt of a run."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from src.callbacks.run_length import due
from src.models.generative_model import GenerativeModel
from src.schema import PositiveInt


class Checkpoints(Callback):
    """Writes checkpoints/last.ckpt at an interval, and best.ckpt where the monitored metric is the lowest so far
    (without one to monitor, best is last)."""

    def __init__(self, folder: str, every_images: PositiveInt, monitor: str | None) -> None:
        self.folder, self.every_images, self.monitor = Path(folder), every_images, monitor
        self.best: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, model: GenerativeModel) -> None:  # type: ignore[override]
        """A resumed run in a folder of its own takes the best checkpoint so far along, or looks for a best anew."""
        here = self.folder / "best.ckpt"
        if not self.best or here.exists():
            return
        there = Path(trainer.ckpt_path or "").with_name("best.ckpt")
        is_there = trainer.strategy.broadcast(there.exists())
        if not is_there:
            self.best = {}
        elif trainer.is_global_zero:
            shutil.copyfile(there, here)

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        if not due(trainer, model, self.every_images):
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        improved = self.monitor is None or metrics.get(self.monitor, math.inf) < self.best.get(self.monitor, math.inf)
        if improved:
            self.best = {"images_seen": model.images_seen, **metrics}
        # Written aside and renamed: whoever looks finds a whole file.
        partial = self.folder / "last.ckpt.part"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, self.folder / "last.ckpt")
            if improved or not self.best:
                shutil.copyfile(self.folder / "last.ckpt", partial)
                os.replace(partial, self.folder / "best.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
