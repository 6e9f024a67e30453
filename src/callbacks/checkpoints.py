"""The checkpoints of a run: at intervals, at the end, and when a signal asks it to stop."""

import math
import time
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from src.callbacks.periodic import should_run
from src.callbacks.stop_signals import StopSignals
from src.core.distributed import LargestOfRanks
from src.core.errors import RunStopped, UserError
from src.core.files import link_or_copy, write_atomic
from src.core.run_folder import BEST, LAST, checkpoint_name, numbered_checkpoints
from src.core.types import PositiveFloat, PositiveInt
from src.models.base import GenerativeModel
from src.models.checkpoint.format import read_file, to_bytes

# What a rank asks for after a step, besides a stop by a signal, whose number is higher.
NO_REQUEST, SAVE = 0, 1


def describe_last_checkpoint(trainer: Trainer) -> str:
    """Return in words where a run that breaks off can be resumed."""
    callback = trainer.checkpoint_callback
    newest = callback.newest if isinstance(callback, Checkpoints) else None
    return f"the last valid checkpoint is {newest}" if newest else "there is no checkpoint yet"


class SafetensorsIO(CheckpointIO):
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

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Checkpoints(Checkpoint):
    """Writes images_<images seen>.safetensors every so many images and every so many minutes, and keeps the newest.

    last.safetensors is the newest of them, best.safetensors the one where the monitored metric is the lowest so far
    (without one to monitor, the newest). SIGTERM, SIGINT and SIGUSR1 make all ranks write one after the step and stop.
    It runs after all other callbacks.
    """

    def __init__(
        self,
        folder: str,
        every_images: PositiveInt,
        monitor: str | None,
        every_minutes: PositiveFloat | None = None,
        keep: PositiveInt = 3,
    ) -> None:
        self.folder, self.every_images, self.monitor = Path(folder), every_images, monitor
        self.every_seconds = 60 * every_minutes if every_minutes else math.inf
        self.keep = keep
        self.best: dict[str, float] = {}
        self.newest: Path | None = None
        self.signals, self.largest_of_ranks, self.io = StopSignals(), LargestOfRanks(), SafetensorsIO()
        self.started_at, self.seconds_before = time.monotonic(), 0.0
        self.logged: dict[str, float] = {}
        self.monitored: torch.Tensor | None = None

    @property
    def wall_seconds(self) -> float:
        """The seconds that the run has taken, its parts before it was resumed included."""
        return self.seconds_before + time.monotonic() - self.started_at

    def setup(self, trainer: Trainer, model: GenerativeModel, stage: str) -> None:  # type: ignore[override]
        trainer.strategy.checkpoint_io = self.io

    def on_train_start(self, trainer: Trainer, model: GenerativeModel) -> None:  # type: ignore[override]
        # Lightning would wait for the device at every step to tell the other ranks of a SIGTERM.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        self.saved_at = time.monotonic()
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self.logged.items()})
        self.monitored = trainer.callback_metrics.get(self.monitor or "")
        if model.images_seen and trainer.ckpt_path:
            self.newest = Path(trainer.ckpt_path)
        if self.best and not trainer.strategy.broadcast((self.folder / BEST).exists()):
            self.best = {}  # the search for the best begins again
        self.signals.in_steps = True

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        is_time = trainer.is_global_zero and time.monotonic() - self.saved_at >= self.every_seconds
        request = self.largest_of_ranks(self.signals.received or (SAVE if is_time else NO_REQUEST))
        improved = self.has_improved(trainer)
        if request or improved or should_run(trainer, model, self.every_images):
            self.save(trainer, model, improved)
        if request > SAVE and not trainer.should_stop:
            raise RunStopped(Signals(request).name)

    def has_improved(self, trainer: Trainer) -> bool:
        """Tell whether the monitored metric was logged after this step, lower than ever."""
        monitored = trainer.callback_metrics.get(self.monitor or "")
        is_new, self.monitored = monitored is not self.monitored, monitored
        return monitored is not None and is_new and monitored.item() < self.best.get(str(self.monitor), math.inf)

    def save(self, trainer: Trainer, model: GenerativeModel, improved: bool) -> None:
        """Write a checkpoint with its other names. Raises UserError on all ranks where that fails on any."""
        self.logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
        is_best = improved or self.monitor is None
        if is_best:
            self.best = {"images_seen": model.images_seen, **self.logged}
        path = self.folder / checkpoint_name(model.images_seen)
        trainer.save_checkpoint(path)
        failure = trainer.strategy.broadcast(self.io.failure)
        if failure:
            raise UserError(f"{failure}; {describe_last_checkpoint(trainer)}")
        self.newest, self.saved_at = path, time.monotonic()
        if trainer.is_global_zero:
            link_or_copy(path, self.folder / LAST)
            if is_best or not self.best:
                link_or_copy(path, self.folder / BEST)
            self.delete_old(model.images_seen)

    def delete_old(self, images_seen: int) -> None:
        """Delete all but the newest `keep`, and those beyond the images seen: that part of the run is repeated."""
        files = numbered_checkpoints(self.folder)
        current = [path for number, path in files.items() if number <= images_seen]
        for path in files.values():
            if path not in current[-self.keep :]:
                path.unlink()

    def on_save_checkpoint(self, trainer: Trainer, model: GenerativeModel, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        check_finite(trainer, model)  # after TrainingScalars, which names the loss that broke them
        versions = {str(logger.name): str(logger.version) for logger in trainer.loggers if logger.version}
        checkpoint["logger_versions"] = versions

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "logged": self.logged, "wall_seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.logged = state_dict["best"], state_dict["logged"]
        self.seconds_before = state_dict["wall_seconds"]

    def on_exception(self, *args: Any) -> None:
        self.signals.in_steps = False

    def on_train_end(self, *args: Any) -> None:
        self.signals.in_steps = False


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
