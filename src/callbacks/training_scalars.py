"""Averages what training steps return and logs it at an interval; the device is waited for only then."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from src.callbacks.checkpoints import describe_last_checkpoint
from src.callbacks.periodic import log_metrics, should_run
from src.core.distributed import all_gather, all_reduce_mean
from src.core.errors import UserError
from src.core.types import UNMEASURED, NonNegativeFloat, NonNegativeInt, PositiveInt
from src.models.checkpoint.states import checked_state, mismatch

WARM_UP_STEPS = 8  # before the speed of a run is measured
# Penalties and the like that are computed every few steps are measured in their proportion.
PERIOD_STEPS = 16
# The plain values that a checkpoint holds, besides the tensors.
SAVED: dict[str, Any] = dict.fromkeys(("seconds", "cpu_seconds", "wait_seconds", "total_seconds"), NonNegativeFloat)
SAVED |= dict.fromkeys(("images", "total_images"), NonNegativeInt)


@dataclass(eq=False)
class TrainingScalars(Callback):
    """Logs the mean over steps and ranks of each value as train/<name>, and how fast training is.

    Speeds count the training time only: this callback stands before all that take time. docs/diagnostics.md has them.

    A value that is not finite stops the run: UserError names those that broke first, on any rank, the images seen and
    the last valid checkpoint. No checkpoint is written in between. With 16-mixed the gradients are left to Lightning's
    scaler. The values since the last log are part of the checkpoint.
    """

    every_images: PositiveInt

    def __post_init__(self) -> None:
        self.total_seconds, self.total_images = 0.0, 0
        self._clear()

    def _clear(self) -> None:
        # By name, the values that steps since the last log returned, each with the images seen after the step.
        self.values: dict[str, list[tuple[int, Tensor]]] = {}
        self.seconds, self.cpu_seconds, self.wait_seconds, self.images = 0.0, 0.0, 0.0, 0

    def on_train_batch_start(self, trainer: Trainer, model: Any, *args: Any) -> None:
        self.wait_seconds += time.perf_counter() - model.training_since

    def on_train_batch_end(self, trainer: Trainer, model: Any, *args: Any) -> None:
        outputs, images, _ = args
        for name, value in outputs.items():
            scalar = value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
            self.values.setdefault(name, []).append((model.images_seen, scalar))
        self.images += len(images) * trainer.world_size
        is_due = should_run(trainer, model, self.every_images)
        # Training time too: the device finishes the steps meanwhile.
        means = self.finite_means(trainer) if is_due else {}
        self.seconds += time.perf_counter() - model.training_since
        self.cpu_seconds += time.process_time() - model.training_cpu_since
        if not is_due:
            return
        times = torch.tensor([[self.seconds, self.cpu_seconds, self.wait_seconds]], device=model.device)
        mean_times, ranks = all_reduce_mean(times)
        seconds, cpu_seconds, wait_seconds = mean_times.tolist()
        self.total_seconds += seconds
        self.total_images += self.images
        means["images_per_second"] = self.images / seconds
        means["images_per_cpu_second"] = self.images / (cpu_seconds * ranks)
        means["data_wait_fraction"] = wait_seconds / seconds
        log_metrics(trainer, {f"train/{name}": value for name, value in means.items()}, model.images_seen)
        self._clear()

    def gathered(self, trainer: Trainer) -> dict[str, Tensor]:
        """Return the values since the last log by name, (ranks, steps). Every rank must call it."""
        device = trainer.strategy.root_device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # what MPS does not have
        rows = {
            name: torch.stack([value.to(dtype).to(device) for _, value in self.values[name]]) for name in self.values
        }
        return {name: all_gather(row[None]).cpu() for name, row in rows.items()}

    def finite_means(self, trainer: Trainer) -> dict[str, float]:
        """Return the means since the last log; UserError if a value is not finite. Every rank must call it."""
        values, broken_at = self.gathered(trainer), {}
        unchecked = ("gradient_norm",) if trainer.precision == "16-mixed" else ()
        for name, rows in values.items():
            broken_steps = (~rows.isfinite()).any(dim=0).nonzero()
            if len(broken_steps) and not name.endswith(unchecked):
                broken_at[name], _ = self.values[name][int(broken_steps[0])]
        if broken_at:
            first_at = min(broken_at.values())
            first = [name for name, images_seen in broken_at.items() if images_seen == first_at]
            raise UserError(
                f"{' and '.join(first)} {'are' if len(first) > 1 else 'is'} not finite after {first_at:,} images; "
                f"{describe_last_checkpoint(trainer)}"
            )
        return {name: rows.mean().item() for name, rows in values.items()}

    def on_save_checkpoint(self, trainer: Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        """Every rank calls it: the values of all of them are kept."""
        self.finite_means(trainer)
        state = {name: getattr(self, name) for name in SAVED}
        checkpoint["training_scalars"] = {"values": self.gathered(trainer), **state}

    def on_load_checkpoint(self, trainer: Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        if state := checkpoint.get("training_scalars"):
            for name, value in checked_state("TrainingScalars", state, SAVED).items():
                setattr(self, name, value)
            for name, rows in state.get("values", {}).items():  # earlier checkpoints have none
                if not (isinstance(rows, Tensor) and rows.is_floating_point() and rows.ndim == 2 and rows.numel()):
                    raise mismatch(f"values of {name} of another kind")
                # On another number of ranks each takes the mean of all.
                mine = rows[trainer.global_rank] if len(rows) == trainer.world_size else rows.mean(dim=0)
                self.values[str(name)] = [(model.images_seen, value) for value in mine]

    @property
    def images_per_second(self) -> float:
        """The training speed over the whole run, resumed parts among it, without evaluations and the like."""
        return self.total_images / max(self.total_seconds, 1e-9)


@dataclass(eq=False)
class MeasureSpeed(TrainingScalars):
    """Logs the training scalars, the speed among them, of some seconds after WARM_UP_STEPS steps; then ends the run."""

    every_images: PositiveInt = UNMEASURED  # more than any run sees: it logs at the end only
    at_least_s: float = field(kw_only=True)
    steps: int = -WARM_UP_STEPS

    def on_train_batch_end(self, trainer: Trainer, model: Any, *args: Any) -> None:
        self.steps += 1
        if self.steps > 0 and self.steps % PERIOD_STEPS == 0:
            trainer.should_stop = trainer.strategy.reduce_boolean_decision(self.seconds >= self.at_least_s)
        super().on_train_batch_end(trainer, model, *args)
        if self.steps == 0:
            self.finite_means(trainer)  # waits for the device
            self._clear()
