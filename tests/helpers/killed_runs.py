"""Runs in processes of their own, to be killed: a fork server has imported everything once, so each costs little."""

import math
import multiprocessing
import os
import resource
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from torch import Tensor

from src.core.errors import UserError
from src.models.base import GenerativeModel
from src.training.launcher import rank_environments
from tests.helpers.commands import TINY_NETWORKS, config_of

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "tests.helpers.killed_runs",
        "src.training.fit",
        "src.evaluation.evaluator",
        "src.training.resume",
        "tests.helpers.tiny",
    ]
)


class Pause(Callback):
    """At so many images seen says so with a file `paused` and waits for a file `released`."""

    def __init__(self, folder: str, at: int) -> None:
        self.folder, self.at = Path(folder), at

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        if model.images_seen == self.at and trainer.is_global_zero and not (self.folder / "released").exists():
            (self.folder / "paused").touch()
            wait_for_file(self.folder / "released")


class PausedSetup(Callback):
    """Says with a file `paused` that a run is being set up, which then takes a minute."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def setup(self, *args: Any, **kwargs: Any) -> None:
        (self.folder / "paused").touch()
        time.sleep(60)


class BrokenImages(Callback):
    """At so many images seen the last process's images are not finite."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: Trainer, model: GenerativeModel, batch: Tensor, *args: Any) -> None:  # type: ignore[override]
        if model.images_seen == self.at and trainer.global_rank == trainer.world_size - 1:
            batch.fill_(math.nan)


class FullDisk(Callback):
    """A disk that is full from some images seen on: no file grows beyond 10 kB."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        if model.images_seen == self.at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def config_of_a_run(model: str, folder: Path, *overrides: str) -> dict[str, Any]:
    """24 batches; curves, evaluations, grids and checkpoints each at an interval of their own."""
    # The best checkpoint is not the newest.
    monitor = ["callbacks.checkpoints.monitor=val/loss"] if "gan" not in model else []
    return config_of(
        f"model={model}",
        *monitor,
        *TINY_NETWORKS[model],
        "data.image_size=32",
        "data.num_images=64",
        "data.batch_size=16",
        "max_images=384",
        "metrics=none",
        "trainer=cpu",
        "callbacks.checkpoints.every_images=48",
        "callbacks.training_scalars.every_images=80",
        "callbacks.evaluation.every_images=112",
        "callbacks.image_grids.num_images=8",
        f"run_dir={folder}",
        *overrides,
    )


def run_rank(config: dict[str, Any], environment: dict[str, str]) -> None:
    """Run src.train in this process and write its output to a file of the run folder; resume may be last."""
    os.environ.update(environment)
    folder = Path(config["run_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from src.training.fit import fit
    from src.training.resume import latest_valid_checkpoint

    try:
        if config["resume"] == "last":
            newest = latest_valid_checkpoint(folder)
            config["resume"] = str(newest) if newest else None
        fit(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def begin() -> BaseProcess:
    """A process that does nothing, for the fork server to be there."""
    process: BaseProcess = FORKS.Process(target=int)
    process.start()
    return process


def start(config: dict[str, Any], resume: str | None = "last") -> list[BaseProcess]:
    """The processes of a run."""
    count = int(config["trainer"]["devices"])
    ranks: list[dict[str, str]] = rank_environments(count) if count > 1 else [{}]
    started: list[BaseProcess] = [FORKS.Process(target=run_rank, args=(config | {"resume": resume}, r)) for r in ranks]
    for process in started:
        process.start()
    return started


def finish(processes: list[BaseProcess], timeout: float = 120) -> list[int | None]:
    """Their exit statuses; a process that does not end is ended."""
    for process in processes:
        process.join(timeout)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def words(folder: Path) -> str:
    """Return what a run has printed."""
    return (folder / "output.txt").read_text()
