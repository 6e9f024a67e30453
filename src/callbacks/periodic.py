"""The length, seeds and intervals of a run in images seen, and the way from callbacks to the loggers."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from src.core.errors import UserError
from src.core.seeds import mixed_seed, seed_generators
from src.core.types import PositiveInt, Seed
from src.models.base import GenerativeModel


@dataclass(eq=False)
class RunLength(Callback):
    """Stops after max_images, rounded up to a batch, or the Trainer's max_steps; it must be the first callback.

    The checkpoint keeps max_images.
    """

    max_images: PositiveInt

    def on_train_start(self, trainer: Trainer, model: Any) -> None:
        if trainer.strategy.broadcast(model.images_seen) != model.images_seen:
            raise UserError(
                "the ranks have read different checkpoints; start them again once the earlier run has ended"
            )
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
        steps_are_over = 0 <= trainer.max_steps <= trainer.global_step
        trainer.should_stop = model.images_seen >= self.max_images or steps_are_over

    def state_dict(self) -> dict[str, Any]:
        return {"max_images": self.max_images}


@dataclass(eq=False)
class StepSeeds(Callback):
    """Seeds torch before every step, from the run's seed, which a resumed run keeps.

    So ranks draw different noise, a resumed run draws on, and what is drawn between steps changes nothing.
    """

    seed: Seed

    def on_train_batch_start(self, trainer: Trainer, model: Any, *args: Any) -> None:
        seed_generators(mixed_seed(self.seed, trainer.global_rank, model.images_seen), model.device)


@dataclass(eq=False)
class PeriodicCallback(Callback):
    """Calls `run` after every batch that crosses a multiple of every_images, and after the last one of the run."""

    every_images: PositiveInt

    @abstractmethod
    def run(self, trainer: Trainer, model: GenerativeModel) -> None:
        """Act; every rank calls it at the same step."""

    def on_train_batch_end(self, trainer: Trainer, model: Any, *args: Any) -> None:
        if should_run(trainer, model, self.every_images):
            self.run(trainer, model)


def should_run(trainer: Trainer, model: GenerativeModel, every_images: int) -> bool:
    """Tell whether the batch just trained on crossed a multiple of every_images, or was the last of the run."""
    before = model.images_seen - trainer.datamodule.batch_size  # type: ignore[attr-defined]
    return trainer.should_stop or model.images_seen // every_images > before // every_images


def log_metrics(trainer: Trainer, metrics: dict[str, float], images_seen: int) -> None:
    """Send values to every logger, and to trainer.callback_metrics for other callbacks. Call it on all ranks."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics({"images_seen": images_seen, **metrics}, step=images_seen)
