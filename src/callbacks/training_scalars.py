"""What training steps return, averaged and logged at an interval; the device is waited for only then."""

import math
import time
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from src.callbacks.periodic import log_metrics, should_run
from src.core.types import PositiveInt
from src.models.base import GenerativeModel


class TrainingScalars(Callback):
    """Logs the mean over steps and processes of each value as train/<name>, and train/images_per_second. Values that
    are not finite, of steps that are skipped, are left out.

    It stands before all callbacks that take time, so that theirs is not counted. What is summed up since the last
    report travels in the checkpoint.
    """

    def __init__(self, every_images: PositiveInt) -> None:
        self.every_images = every_images
        self.total_seconds, self.total_images = 0.0, 0
        self._clear()

    def _clear(self) -> None:
        # Names of a step's values -> (2, number of names): sums and counts.
        self.sums: dict[tuple[str, ...], Tensor] = {}
        # What is no tensor, such as a schedule's value: name -> sum and count.
        self.numbers: dict[str, list[float]] = {}
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
            if not isinstance(value, Tensor):
                total, count = self.numbers.get(name, [0.0, 0.0])
                self.numbers[name] = [total + value, count + 1]
        tensors = {name: value for name, value in outputs.items() if isinstance(value, Tensor)}
        if tensors:
            # In bfloat16 a sum soon stops growing.
            values = torch.stack([value.detach().float() for value in tensors.values()])
            counted = torch.stack([values.nan_to_num(0.0, 0.0, 0.0), values.isfinite().float()])
            names = tuple(tensors)
            self.sums[names] = self.sums[names] + counted if names in self.sums else counted
        self.images += len(batch) * trainer.world_size
        report_now = should_run(trainer, model, self.every_images)
        means = self.means(trainer) if report_now else {}
        self.seconds += time.perf_counter() - model.training_since
        if report_now:
            self.total_seconds += self.seconds
            self.total_images += self.images
            means["train/images_per_second"] = self.images / self.seconds
            log_metrics(trainer, means, model.images_seen)
            self._clear()

    def means(self, trainer: Trainer) -> dict[str, float]:
        if not self.sums and not self.numbers:
            return {}
        names = [*(name for group in self.sums for name in group), *self.numbers]
        numbers = torch.tensor(list(self.numbers.values()), device=trainer.strategy.root_device).reshape(-1, 2).T
        totalled = torch.cat([*self.sums.values(), numbers], dim=1)
        sums, counts = trainer.strategy.reduce(totalled, reduce_op="sum").tolist()
        totals: dict[str, list[float]] = {name: [0.0, 0.0] for name in names}
        for name, value, count in zip(names, sums, counts, strict=True):
            totals[name][0] += value
            totals[name][1] += count
        return {f"train/{name}": value / count if count else math.nan for name, (value, count) in totals.items()}

    def on_save_checkpoint(self, trainer: Trainer, model: GenerativeModel, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        """Every process calls it: the sums of all of them are kept."""
        groups = [
            {"names": list(names), "sums": trainer.strategy.all_gather(sums).reshape(-1, *sums.shape).cpu()}
            for names, sums in self.sums.items()
        ]
        plain = {"numbers": self.numbers, "seconds": self.seconds, "images": self.images}
        checkpoint["training_scalars"] = {"groups": groups, **plain}

    def on_load_checkpoint(self, trainer: Trainer, model: GenerativeModel, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        if "training_scalars" not in checkpoint:
            return
        state = checkpoint["training_scalars"]
        self.numbers, self.seconds, self.images = state["numbers"], state["seconds"], state["images"]
        for group in state["groups"]:
            # On another number of processes each takes an equal part.
            sums = group["sums"]
            same = len(sums) == trainer.world_size
            mine = sums[trainer.global_rank] if same else sums.sum(dim=0) / trainer.world_size
            self.sums[tuple(group["names"])] = mine.to(trainer.strategy.root_device)

    def state_dict(self) -> dict[str, Any]:
        return {"total_seconds": self.total_seconds, "total_images": self.total_images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total_seconds, self.total_images = state_dict["total_seconds"], state_dict["total_images"]

    @property
    def images_per_second(self) -> float:
        """Over the whole run, resumed ones too, without evaluations and the like."""
        return self.total_images / max(self.total_seconds, 1e-9)
