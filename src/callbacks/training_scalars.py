"""Averages what training steps return and logs it at an interval; the device is waited for only then."""

import time
from collections import Counter, defaultdict
from math import isfinite
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

from src.callbacks.checkpoints import describe_last_checkpoint
from src.callbacks.periodic import PeriodicCallback, log_metrics
from src.core.distributed import all_gather
from src.core.errors import UserError
from src.core.types import PositiveInt
from src.models.base import GenerativeModel

NEVER = torch.iinfo(torch.int64).max


class TrainingScalars(PeriodicCallback):
    """Logs the mean over steps and ranks of each value as train/<name>, and how fast training is.

    train/images_per_second counts the training time only: this callback stands before all that take time.
    train/data_wait_fraction is the share of it between the end of a step and the beginning of the next, on rank zero.
    Batches are read, moved and augmented then; a device may still be computing, so it is an upper bound.

    A mean that is not finite stops the run: UserError names the values that broke first, on any rank, the images seen
    and the last valid checkpoint. No checkpoint is written in between. With 16-mixed the gradients are left to
    Lightning's scaler. The sums since the last log are part of the checkpoint.
    """

    def __init__(self, every_images: PositiveInt) -> None:
        super().__init__(every_images)
        self.total_seconds, self.total_images = 0.0, 0
        self._clear()

    def _clear(self) -> None:
        # One step's names, joined by commas -> the sums of their values (N,), and the images seen when each first was
        # not finite.
        self.sums: dict[str, Tensor] = {}
        self.broken_at: dict[str, Tensor] = {}
        # Plain numbers, such as a schedule's value, are the same on all ranks.
        self.numbers: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = Counter()
        self.seconds, self.wait_seconds, self.images = 0.0, 0.0, 0

    def on_train_batch_start(self, trainer: Trainer, model: Any, *args: Any) -> None:
        self.wait_seconds += time.perf_counter() - model.training_since

    def on_train_batch_end(self, trainer: Trainer, model: Any, *args: Any) -> None:
        outputs, images, _ = args
        self._add(outputs, model.images_seen)
        self.images += len(images) * trainer.world_size
        self.seconds += time.perf_counter() - model.training_since
        super().on_train_batch_end(trainer, model)

    def _add(self, outputs: dict[str, Tensor | float], images_seen: int) -> None:
        # In bfloat16 a sum soon stops growing.
        tensors = {name: value.detach().float() for name, value in outputs.items() if isinstance(value, Tensor)}
        for name in outputs:
            self.counts[name] += 1
        for name in outputs.keys() - tensors.keys():
            self.numbers[name] += float(outputs[name])
        if tensors:
            names, values = ",".join(tensors), torch.stack(list(tensors.values()))
            broken_at = torch.full_like(values, images_seen, dtype=torch.int64).masked_fill(values.isfinite(), NEVER)
            is_first = names not in self.sums
            self.sums[names] = values if is_first else self.sums[names] + values
            self.broken_at[names] = broken_at if is_first else torch.minimum(self.broken_at[names], broken_at)

    def run(self, trainer: Trainer, model: GenerativeModel) -> None:
        started_at = time.perf_counter()
        means = self.finite_means(trainer, model.images_seen)
        # Training time too: the device finishes the steps meanwhile.
        self.seconds += time.perf_counter() - started_at
        self.total_seconds += self.seconds
        self.total_images += self.images
        means["images_per_second"] = self.images / self.seconds
        means["data_wait_fraction"] = self.wait_seconds / self.seconds
        log_metrics(trainer, {f"train/{name}": value for name, value in means.items()}, model.images_seen)
        self._clear()

    def finite_means(self, trainer: Trainer, images_seen: int) -> dict[str, float]:
        """Return the means since the last log; UserError if one is not finite. Every rank must call it."""
        sums: dict[str, float] = defaultdict(float, self.numbers)
        names = [name for group in self.sums for name in group.split(",")]
        if names:
            totals = all_gather(torch.cat(list(self.sums.values()))[None]).mean(dim=0).tolist()
            for name, total in zip(names, totals, strict=True):
                sums[name] += total
        unchecked = "gradient_norm" if trainer.precision == "16-mixed" else None
        broken = [name for name in names if not isfinite(sums[name]) and not (unchecked and name.endswith(unchecked))]
        if broken:
            all_broken_at = all_gather(torch.cat(list(self.broken_at.values()))[None]).amin(dim=0).tolist()
            # A sum may have overflowed without any value that is not finite.
            broken_at = dict.fromkeys(broken, images_seen)
            for name, at in zip(names, all_broken_at, strict=True):
                if name in broken_at:
                    broken_at[name] = min(broken_at[name], at)
            first = [name for name in broken_at if broken_at[name] == min(broken_at.values())]
            raise UserError(
                f"{' and '.join(first)} {'are' if len(first) > 1 else 'is'} not finite after "
                f"{broken_at[first[0]]:,} images; {describe_last_checkpoint(trainer)}"
            )
        return {name: value / self.counts[name] for name, value in sums.items()}

    def on_save_checkpoint(self, trainer: Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        """Every rank calls it: the sums of all of them are kept."""
        self.finite_means(trainer, model.images_seen)
        checkpoint["training_scalars"] = {
            "groups": {names: all_gather(sums[None]).cpu() for names, sums in self.sums.items()},
            "numbers": dict(self.numbers),
            "counts": dict(self.counts),
            "clock": [self.seconds, self.wait_seconds],
            "images": self.images,
        }

    def on_load_checkpoint(self, trainer: Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("training_scalars")
        if not state:
            return
        self.numbers, self.counts = defaultdict(float, state["numbers"]), Counter(state["counts"])
        (self.seconds, self.wait_seconds), self.images = state["clock"], state["images"]
        for names, sums in state["groups"].items():
            # On another number of ranks each takes the mean of all.
            mine = sums[trainer.global_rank] if len(sums) == trainer.world_size else sums.mean(dim=0)
            self.sums[names] = mine.to(trainer.strategy.root_device)
            self.broken_at[names] = torch.full_like(self.sums[names], NEVER, dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        return {"total_seconds": self.total_seconds, "total_images": self.total_images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total_seconds, self.total_images = state_dict["total_seconds"], state_dict["total_images"]

    @property
    def images_per_second(self) -> float:
        """The training speed over the whole run, resumed parts among it, without evaluations and the like."""
        return self.total_images / max(self.total_seconds, 1e-9)
