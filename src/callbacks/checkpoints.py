"""The checkpoints of a run: at intervals, at the end, and when a signal asks it to stop."""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from src.callbacks.periodic import should_run
from src.callbacks.stop_signals import StopSignals
from src.core.distributed import LargestOfRanks, all_gather
from src.core.errors import RunStopped, UserError
from src.core.files import link_or_copy, write_atomic
from src.core.run_folder import BEST, LAST, MILESTONES, checkpoint_name, numbered_checkpoints
from src.core.types import NonNegativeFloat, PositiveFloat, PositiveInt
from src.models.base import GenerativeModel
from src.models.checkpoint.format import read_file, to_bytes
from src.models.checkpoint.loading import without_training
from src.models.checkpoint.states import checked_state

# What a rank asks for after a step. A stop by a signal is SAVE + the signal's number (SIGHUP's is 1).
NO_REQUEST, SAVE = 0, 1
MIXTURE = "_mixture"  # what the names of metrics of samples of the fitted prior end in
STATE: dict[str, Any] = dict.fromkeys(("best", "logged"), dict[str, int | float])
STATE |= dict.fromkeys(("wall_seconds", "processor_seconds"), NonNegativeFloat)


def describe_last_checkpoint(trainer: Trainer) -> str:
    """Return in words where a run that breaks off can be resumed."""
    callback = trainer.checkpoint_callback
    newest = callback.newest if isinstance(callback, Checkpoints) else None
    return f"the last valid checkpoint is {newest}" if newest else "there is no checkpoint yet"


class SafetensorsIO(TorchCheckpointIO):
    """Lightning's way to and from checkpoint files: whoever looks finds a whole file, which is on the disk.

    failure: why the last file could not be written, for the ranks that did not write it to hear of it.
    """

    failure: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        content = to_bytes(checkpoint)
        try:
            write_atomic(Path(path), content, sync=True)
        except OSError as error:
            self.failure = f"can't write the checkpoint {path} ({len(content) / 1e6:,.1f} MB): {error.strerror}"

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return read_file(path)


@dataclass(eq=False)
class Checkpoints(Checkpoint):
    """Writes images_<images seen>.safetensors every so many images and every so many minutes, and keeps the newest.

    last.safetensors is the newest of them, best.safetensors the one where the monitored metric (<monitor>_mixture where
    there is one) is the lowest so far; without one to monitor, the newest. The signals of StopSignals make all ranks
    write one after the step and stop. It runs after all other callbacks.

    milestones: also keep, in milestones/, what samples and encodes, in half precision, whenever the images seen pass a
    power of two: to see how a model grew.
    """

    folder: str
    every_images: PositiveInt
    monitor: str | None
    every_minutes: PositiveFloat | None = None
    keep: PositiveInt = 3
    milestones: bool = False

    def __post_init__(self) -> None:
        # The metrics of the best checkpoint, and the newest of all.
        self.best: dict[str, float] = {}
        self.logged: dict[str, float] = {}
        self.newest: Path | None = None
        self.gradients: dict[str, torch.Tensor] = {}  # where gradients are accumulated over steps
        self.signals, self.largest_of_ranks, self.io = StopSignals(), LargestOfRanks(), SafetensorsIO()
        self.started_at, self.processor_seconds_before = time.monotonic(), 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """The time of the run, its parts before it was resumed included: by the clock, and of rank zero's processor."""
        processor = sum(os.times()[:4]) + self.processor_seconds_before
        return {"wall_seconds": time.monotonic() - self.started_at, "processor_seconds": processor}

    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.strategy.checkpoint_io = self.io

    def on_train_start(self, trainer: Trainer, model: Any) -> None:
        # Lightning would wait for the device at every step to tell the other ranks of a SIGTERM.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        self.saved_at = time.monotonic()
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self.logged.items()})
        self.monitored = self.monitored_value(trainer)
        if model.images_seen and trainer.ckpt_path:
            self.newest = Path(trainer.ckpt_path)
        for name, weight in model.named_parameters():
            if name in self.gradients:
                values = self.gradients[name].to(weight)  # on another number of ranks each takes the mean of all
                weight.grad = values[trainer.global_rank] if len(values) == trainer.world_size else values.mean(dim=0)
        if self.best and not trainer.strategy.broadcast(Path(self.folder, BEST).exists()):
            self.best = {}  # the search for the best begins again
        self.signals.in_steps = True

    def on_train_batch_end(self, trainer: Trainer, model: Any, *args: Any) -> None:
        is_time = trainer.is_global_zero and time.monotonic() - self.saved_at >= 60 * (self.every_minutes or math.inf)
        stop = self.signals.received
        request = self.largest_of_ranks(SAVE + stop if stop else SAVE if is_time else NO_REQUEST)
        # Whether the monitored metric was logged after this step, lower than ever.
        value, lowest = self.monitored_value(trainer), self.best.get(str(self.monitor), math.inf)
        improved = value is not None and value is not self.monitored and value.item() < lowest
        self.monitored = value
        before = model.images_seen - trainer.datamodule.batch_size  # type: ignore[attr-defined]
        if self.milestones and trainer.is_global_zero and model.images_seen.bit_length() > before.bit_length():
            content: dict[str, Any] = {"state_dict": model.state_dict()}
            model.on_save_checkpoint(content)
            kept = without_training(content, {})
            # Half the bytes; readers return to the precision of the model.
            state = kept["state_dict"].items()
            kept["state_dict"] = {name: value.half() if value.is_floating_point() else value for name, value in state}
            write_atomic(Path(self.folder, MILESTONES, checkpoint_name(model.images_seen)), to_bytes(kept))
        if request or improved or should_run(trainer, model, self.every_images):
            self.save(trainer, model, improved or self.monitor is None)
        if request > SAVE and not trainer.should_stop:
            raise RunStopped(Signals(request - SAVE).name)

    def monitored_value(self, trainer: Trainer) -> torch.Tensor | None:
        """Return the monitored metric's newest value; its name is that of the prior from then on."""
        if f"{self.monitor}{MIXTURE}" in trainer.callback_metrics:
            self.monitor = f"{self.monitor}{MIXTURE}"
        return trainer.callback_metrics.get(self.monitor or "")

    def save(self, trainer: Trainer, model: GenerativeModel, is_best: bool) -> None:
        """Write a checkpoint with its other names. Raises UserError on all ranks where that fails on any."""
        self.logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if is_best:
            self.best = {"images_seen": model.images_seen, **self.logged}
        path = Path(self.folder, checkpoint_name(model.images_seen))
        trainer.save_checkpoint(path)
        if failure := trainer.strategy.broadcast(self.io.failure):
            raise UserError(f"{failure}; {describe_last_checkpoint(trainer)}")
        self.newest, self.saved_at = path, time.monotonic()
        if trainer.is_global_zero:
            link_or_copy(path, path.with_name(LAST))
            if is_best or not self.best:
                link_or_copy(path, path.with_name(BEST))
            for older in [*numbered_checkpoints(path.parent).values()][: -self.keep]:
                older.unlink()
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)  # type: ignore[arg-type]

    def on_save_checkpoint(self, trainer: Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        check_finite(trainer, model)  # after TrainingScalars, which names the loss that broke them
        versions = {str(logger.name): str(logger.version) for logger in trainer.loggers if logger.version}
        checkpoint["logger_versions"] = versions
        if trainer.fit_loop.epoch_loop._should_accumulate():  # each rank's gradients, of the steps so far
            grads = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
            checkpoint["gradients"] = {name: all_gather(grad[None]).cpu() for name, grad in grads.items()}

    def on_load_checkpoint(self, trainer: Trainer, model: Any, checkpoint: dict[str, Any]) -> None:
        self.gradients = checkpoint.get("gradients", {})

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "logged": self.logged, **self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = checked_state("Checkpoints", state_dict, STATE)
        self.best, self.logged = state["best"], state["logged"]
        self.started_at -= state["wall_seconds"]
        self.processor_seconds_before = state["processor_seconds"]

    def on_exception(self, *args: Any) -> None:
        self.signals.in_steps = False

    on_train_end = on_exception  # type: ignore[assignment]


def check_finite(trainer: Trainer, model: GenerativeModel) -> None:
    """Raise UserError on all ranks where a weight or a state of an optimizer of any rank is not finite."""
    tensors = dict(model.state_dict())
    for number, optimizer in enumerate(trainer.optimizers):
        for index, state in enumerate(optimizer.state.values()):
            values = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
            tensors |= {f"optimizer {number}'s {name} {index}": value for name, value in values.items()}
    # One wait for the device, not one for each tensor.
    finite = torch.stack([tensor.isfinite().all().to(model.device) for tensor in tensors.values()]).tolist()
    broken = next((name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite), None)
    if not trainer.strategy.reduce_boolean_decision(broken is None, all=True):
        raise UserError(
            f"{broken or 'a number of another rank'} is not finite after {model.images_seen:,} images, so no "
            f"checkpoint is written; {describe_last_checkpoint(trainer)}"
        )
