"""Averages what training steps return and logs it at an interval; the device is waited for only then."""

import time
from dataclasses import dataclass, field
from math import isfinite
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
NEVER = torch.iinfo(torch.int64).max
# The plain values that a checkpoint holds, besides the sums of tensors.
SAVED: dict[str, Any] = {"numbers": dict[str, float], "counts": dict[str, PositiveInt]}
SAVED |= dict.fromkeys(("seconds", "cpu_seconds", "wait_seconds", "total_seconds"), NonNegativeFloat)
SAVED |= dict.fromkeys(("images", "total_images"), NonNegativeInt)


@dataclass(eq=False)
class TrainingScalars(Callback):
    """Logs the mean over steps and ranks of each value as train/<name>, and how fast training is.

    Speeds count the training time only: this callback stands before all that take time. docs/diagnostics.md has them.

    A mean that is not finite stops the run: UserError names the values that broke first, on any rank, the images seen
    and the last valid checkpoint. No checkpoint is written in between. With 16-mixed the gradients are left to
    Lightning's scaler. The sums since the last log are part of the checkpoint.
    """

    every_images: PositiveInt

    def __post_init__(self) -> None:
        self.total_seconds, self.total_images = 0.0, 0
        self._clear()

    def _clear(self) -> None:
        # One step's names, joined by commas -> the sums of their values (N,), and the images seen when each first was
        # not finite.
        self.groups: dict[str, tuple[Tensor, Tensor]] = {}
        # Plain numbers, such as a schedule's value, are the same on all ranks.
        self.numbers: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.seconds, self.cpu_seconds, self.wait_seconds, self.images = 0.0, 0.0, 0.0, 0

    def on_train_batch_start(self, trainer: Trainer, model: Any, *args: Any) -> None:
        self.wait_seconds += time.perf_counter() - model.training_since

    def on_train_batch_end(self, trainer: Trainer, model: Any, *args: Any) -> None:
        outputs, images, _ = args
        self._add(outputs, model.images_seen)
        self.images += len(images) * trainer.world_size
        is_due = should_run(trainer, model, self.every_images)
        # Training time too: the device finishes the steps meanwhile.
        means = self.finite_means(trainer, model.images_seen) if is_due else {}
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

    def _add(self, outputs: dict[str, Tensor | float], images_seen: int) -> None:
        tensors: dict[str, Tensor] = {}
        for name, value in outputs.items():
            self.counts[name] = self.counts.get(name, 0) + 1
            if isinstance(value, Tensor):
                tensors[name] = value.detach().float()  # in bfloat16 a sum soon stops growing
            else:
                self.numbers[name] = self.numbers.get(name, 0.0) + value
        if tensors:
            names, values = ",".join(tensors), torch.stack(list(tensors.values()))
            broken_at = torch.full_like(values, images_seen, dtype=torch.int64).masked_fill(values.isfinite(), NEVER)
            if names in self.groups:
                sums, before = self.groups[names]
                values, broken_at = sums + values, torch.minimum(before, broken_at)
            self.groups[names] = values, broken_at

    def finite_means(self, trainer: Trainer, images_seen: int) -> dict[str, float]:
        """Return the means since the last log; UserError if one is not finite. Every rank must call it."""
        totals, names = dict(self.numbers), [name for group in self.groups for name in group.split(",")]
        if names:
            sums, broken_at = (torch.cat(tensors)[None] for tensors in zip(*self.groups.values(), strict=True))
            for name, total in zip(names, all_gather(sums).mean(dim=0).tolist(), strict=True):
                totals[name] = totals.get(name, 0.0) + total
        unchecked = ("gradient_norm",) if trainer.precision == "16-mixed" else ()
        # A sum may have overflowed without any value that is not finite.
        first_at = {name: images_seen for name in names if not (isfinite(totals[name]) or name.endswith(unchecked))}
        if first_at:
            for name, at in zip(names, all_gather(broken_at).amin(dim=0).tolist(), strict=True):
                if name in first_at:
                    first_at[name] = min(at, first_at[name])
            first = [name for name, at in first_at.items() if at == min(first_at.values())]
            raise UserError(
                f"{' and '.join(first)} {'are' if len(first) > 1 else 'is'} not finite after "
                f"{first_at[first[0]]:,} images; {describe_last_checkpoint(trainer)}"
            )
        return {name: total / self.counts[name] for name, total in totals.items()}

    def on_save_checkpoint(self, trainer: Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        """Every rank calls it: the sums of all of them are kept."""
        self.finite_means(trainer, model.images_seen)
        groups = {names: all_gather(sums[None]).cpu() for names, (sums, _) in self.groups.items()}
        checkpoint["training_scalars"] = {"groups": groups, **{name: getattr(self, name) for name in SAVED}}

    def on_load_checkpoint(self, trainer: Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        if state := checkpoint.get("training_scalars"):
            for name, value in checked_state("TrainingScalars", state, SAVED).items():
                setattr(self, name, value)
            if not self.counts.keys() >= self.numbers.keys():
                raise mismatch("sums without counts")
            for names, sums in state["groups"].items():
                if sums.shape[1:] != (len(names.split(",")),) or not self.counts.keys() >= set(names.split(",")):
                    raise mismatch(f"sums of {names} of another kind")
                # On another number of ranks each takes the mean of all.
                mine = sums[trainer.global_rank] if len(sums) == trainer.world_size else sums.mean(dim=0)
                mine = mine.to(trainer.strategy.root_device)
                self.groups[names] = mine, torch.full_like(mine, NEVER, dtype=torch.int64)

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
            self.finite_means(trainer, model.images_seen)  # waits for the device
            self._clear()
