"""What training steps return, averaged and logged at an interval; the device is waited for only then."""

import time
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from src.callbacks.report import report_metrics
from src.callbacks.run_length import due
from src.models.generative_model import GenerativeModel
from src.schema import PositiveInt


class TrainingScalars(Callback):
    """Logs the mean over steps and processes of each value as train/<name>, and train/images_per_second.

    It stands before all callbacks that take time, so that theirs is not counted.
    """

    def __init__(self, every_images: PositiveInt) -> None:
        self.every_images = every_images
        self.total_seconds, self.total_images = 0.0, 0
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}
        self.seconds, self.images = 0.0, 0

    def on_train_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        model: GenerativeModel,
        outputs: dict[str, Tensor | float],
        batch: Tensor,
        batch_idx: int,
    ) -> None:
        for name, value in outputs.items():
            # In bfloat16 a sum soon stops growing.
            addend = value.detach().float() if isinstance(value, Tensor) else value
            self.sums[name] = self.sums.get(name, 0) + addend
            self.counts[name] = self.counts.get(name, 0) + 1
        self.images += len(batch) * trainer.world_size
        report_now = due(trainer, model, self.every_images)
        means = self.means(trainer) if report_now else {}
        self.seconds += time.perf_counter() - model.training_since
        if report_now:
            self.total_seconds += self.seconds
            self.total_images += self.images
            means["train/images_per_second"] = self.images / self.seconds
            report_metrics(trainer, means, model.images_seen)
            self._clear()

    def means(self, trainer: Trainer) -> dict[str, float]:
        if not self.sums:
            return {}
        device = trainer.strategy.root_device
        sums = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device) for value in self.sums.values()])
        values = trainer.strategy.reduce(sums, reduce_op="mean")
        return {
            f"train/{name}": value / self.counts[name] for name, value in zip(self.sums, values.tolist(), strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        return {"total_seconds": self.total_seconds, "total_images": self.total_images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total_seconds, self.total_images = state_dict["total_seconds"], state_dict["total_images"]

    @property
    def images_per_second(self) -> float:
        """Over the whole run, resumed ones too, without evaluations and the like."""
        return self.total_images / max(self.total_seconds, 1e-9)
