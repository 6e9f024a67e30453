"""The checkpoints of a run: at intervals, at the end, and when a signal asks it to stop."""

import contextlib
import io
import math
import os
import re
import shutil
import time
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from src.callbacks.periodic import should_run
from src.callbacks.stop_signals import StopSignals
from src.core.distributed import LargestOfRanks
from src.core.errors import RunStopped, UserError
from src.core.types import PositiveFloat, PositiveInt
from src.models.base import GenerativeModel
from src.models.seal import seal

# What a process may wish for besides a stop by a signal, whose number is higher.
NOTHING, TIME_IS_UP = 0, 1


def numbered(folder: Path, images_seen: int) -> Path:
    return folder / f"images_{images_seen:09d}.ckpt"


def all_numbered(folder: Path) -> dict[int, Path]:
    """The checkpoints of a run by the images seen, oldest first."""
    found = {path: re.fullmatch(r"images_(\d+)\.ckpt", path.name) for path in folder.glob("images_*.ckpt")}
    return dict(sorted((int(match[1]), path) for path, match in found.items() if match))


def describe_last_checkpoint(trainer: Trainer) -> str:
    """Where to go on from when a run breaks off, in words."""
    newest = next((callback.newest for callback in trainer.callbacks if isinstance(callback, Checkpoints)), None)  # type: ignore[attr-defined]
    return f"the last sound checkpoint is {newest}" if newest else "there is no checkpoint yet"


def link(source: Path, target: Path) -> None:
    """A second name for a file, which outlives the first; a copy where the file system has no links."""
    if target.exists() and target.samefile(source):
        return  # renaming one name of a file to another of its names would do nothing, and leave both
    partial = target.with_name(f"{target.name}.part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    os.replace(partial, target)


class SealedCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint with its digest, aside, down to the disk, and renames it: whoever looks finds a whole file.

    What goes wrong is kept in `failure`, for the processes that did not write to hear of it.
    """

    failure: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        archive = io.BytesIO()
        torch.save(checkpoint, archive)
        seal(archive)
        partial = Path(f"{path}.part")
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(archive.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            folder = os.open(partial.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            size = len(archive.getbuffer()) / 1e6
            self.failure = f"can't write the checkpoint {path} ({size:,.1f} MB): {error.strerror}"


class Checkpoints(Callback):
    """Writes checkpoints/images_<images seen>.ckpt every so many images and every so many minutes, and keeps the
    newest. last.ckpt is the newest of them, best.ckpt the one where the monitored metric is the lowest so far (without
    one to monitor, the newest).

    SIGTERM, SIGINT and SIGUSR1 make all processes write one after the step and stop.
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
        self.signals, self.agreement, self.io = StopSignals(), LargestOfRanks(), SealedCheckpointIO()
        self.started_at, self.seconds_before = time.monotonic(), 0.0
        self.reported: dict[str, float] = {}
        self.judged: torch.Tensor | None = None

    @property
    def wall_seconds(self) -> float:
        """Of the whole run, the parts before it was resumed among it."""
        return self.seconds_before + time.monotonic() - self.started_at

    def setup(self, trainer: Trainer, model: GenerativeModel, stage: str) -> None:  # type: ignore[override]
        trainer.strategy.checkpoint_io = self.io

    def on_train_start(self, trainer: Trainer, model: GenerativeModel) -> None:  # type: ignore[override]
        # Lightning would wait for the device at every step to tell the other processes of a SIGTERM.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        self.saved_at = time.monotonic()
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self.reported.items()})
        self.judged = trainer.callback_metrics.get(self.monitor or "")
        if model.images_seen and trainer.ckpt_path:
            self.newest = Path(trainer.ckpt_path)
        if self.best and not trainer.strategy.broadcast((self.folder / "best.ckpt").exists()):
            self.best = {}  # a best is looked for anew
        self.signals.in_steps = True

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        wish = self.signals.received or (TIME_IS_UP if self.time_is_up(trainer) else NOTHING)
        wish = self.agreement(wish)
        improved = self.has_improved(trainer)
        if wish or improved or should_run(trainer, model, self.every_images):
            self.save(trainer, model, improved)
        if wish > TIME_IS_UP and not trainer.should_stop:
            raise RunStopped(Signals(wish).name)

    def time_is_up(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and time.monotonic() - self.saved_at >= self.every_seconds

    def has_improved(self, trainer: Trainer) -> bool:
        """Whether the monitored metric was reported after this step, lower than ever."""
        judged = trainer.callback_metrics.get(self.monitor or "")
        is_new, self.judged = judged is not self.judged, judged
        return judged is not None and is_new and judged.item() < self.best.get(str(self.monitor), math.inf)

    def save(self, trainer: Trainer, model: GenerativeModel, improved: bool) -> None:
        self.reported = {name: value.item() for name, value in trainer.callback_metrics.items()}
        is_best = improved or self.monitor is None
        if is_best:
            self.best = {"images_seen": model.images_seen, **self.reported}
        path = numbered(self.folder, model.images_seen)
        trainer.save_checkpoint(path)
        failure = trainer.strategy.broadcast(self.io.failure)
        if failure:
            raise UserError(f"{failure}; {describe_last_checkpoint(trainer)}")
        self.newest, self.saved_at = path, time.monotonic()
        if trainer.is_global_zero:
            link(path, self.folder / "last.ckpt")
            if is_best or not self.best:
                link(path, self.folder / "best.ckpt")
            self.prune(model.images_seen)

    def refuse_broken_numbers(self, trainer: Trainer, model: GenerativeModel) -> None:
        """A checkpoint holds no weight and no memory of an optimizer that is not finite."""
        tensors = dict(model.state_dict())
        for number, optimizer in enumerate(trainer.optimizers):
            for index, memory in enumerate(optimizer.state.values()):
                values = {name: value for name, value in memory.items() if isinstance(value, torch.Tensor)}
                tensors |= {f"optimizer {number}'s {name} {index}": value for name, value in values.items()}
        # One wait for the device, not one for each tensor.
        finite = torch.stack([tensor.isfinite().all().to(model.device) for tensor in tensors.values()]).tolist()
        broken = next((name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite), None)
        if not trainer.strategy.reduce_boolean_decision(broken is None, all=True):
            what = broken or "a number of another process"
            raise UserError(
                f"{what} is not finite after {model.images_seen:,} images, so no checkpoint is written; "
                f"{describe_last_checkpoint(trainer)}"
            )

    def prune(self, images_seen: int) -> None:
        """Leaves the newest `keep`; one beyond the images seen is of a part that is being done anew."""
        files = all_numbered(self.folder)
        current = [path for number, path in files.items() if number <= images_seen]
        for path in files.values():
            if path not in current[-self.keep :]:
                path.unlink()

    def on_save_checkpoint(self, trainer: Trainer, model: GenerativeModel, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        self.refuse_broken_numbers(trainer, model)  # after TrainingScalars, which names the loss that broke them
        checkpoint["logger_versions"] = {
            str(logger.name): str(logger.version) for logger in trainer.loggers if logger.version
        }

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "reported": self.reported, "wall_seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        self.reported = state_dict.get("reported", {})
        self.seconds_before = state_dict.get("wall_seconds", 0.0)

    def on_exception(self, *args: Any) -> None:
        self.signals.in_steps = False

    def on_train_end(self, *args: Any) -> None:
        self.signals.in_steps = False
