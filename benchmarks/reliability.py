"""The cost of a checkpoint every minute: `python -m benchmarks.reliability`.

A run on the CPU as users have it, but without evaluations, with callbacks.checkpoints.every_minutes=1. The figure is
the time inside Checkpoints (looking at clock and signals; checking numbers, writing, checksum, down to the disk) over
the time of training.
"""

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from src.callbacks.checkpoints import Checkpoints
from src.config.cli import composed
from src.models.base import GenerativeModel
from src.training.fit import fit


class TimedCheckpoints(Checkpoints):
    """Checkpoints that count the seconds of every step, and of those steps that write."""

    looking, writing, written = 0.0, 0.0, 0

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        before, started_at = self.newest, time.perf_counter()
        super().on_train_batch_end(trainer, model, *args)
        seconds = time.perf_counter() - started_at
        if self.newest == before:
            TimedCheckpoints.looking += seconds
        else:
            TimedCheckpoints.writing += seconds
            TimedCheckpoints.written += 1


class TimeLimit(Callback):
    """Ends the run after so many seconds; only Checkpoints come after it and write once more, which is counted."""

    passed, steps = 0.0, 0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_start(self, *args: Any) -> None:
        self.started_at, TimeLimit.steps = time.perf_counter(), 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        TimeLimit.passed = time.perf_counter() - self.started_at
        TimeLimit.steps += 1
        trainer.should_stop = TimeLimit.passed > self.seconds


def measure(model: str, seconds: float) -> str:
    """Train for so many seconds and return a row of the table."""
    TimedCheckpoints.looking = TimedCheckpoints.writing = 0.0
    TimedCheckpoints.written = 0
    config = composed(
        "train",
        [
            f"model={model}",
            "trainer=cpu",
            "data.num_images=1000",
            "metrics=none",
            "max_images=1_000_000_000",
            "callbacks.checkpoints.every_minutes=1",
            "callbacks.checkpoints.every_images=1_000_000_000",
            "callbacks.evaluation=null",
            "callbacks.image_grids=null",
            "callbacks.checkpoints._target_=benchmarks.reliability.TimedCheckpoints",
            "+callbacks.time_limit._target_=benchmarks.reliability.TimeLimit",
            f"+callbacks.time_limit.seconds={seconds}",
            "run_dir=/run-dir",
        ],
    )
    with tempfile.TemporaryDirectory() as run_dir:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            fit(json.loads(json.dumps(config).replace("/run-dir", run_dir)))
        size = max(path.stat().st_size for path in Path(run_dir, "checkpoints").glob("*.safetensors")) / 1e6
    each = TimedCheckpoints.writing / TimedCheckpoints.written
    files, looks = TimedCheckpoints.writing / TimeLimit.passed, TimedCheckpoints.looking / TimeLimit.passed
    shares = "".join(f"{100 * share:10.2f} %" for share in (files, looks, files + looks))
    return f"{model:8}{TimeLimit.steps:8}{size:9.1f} MB{1e3 * each:8.0f} ms{shares}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=130)
    parser.add_argument("--models", nargs="+", default=["vae", "gan"])
    arguments = parser.parse_args()
    print(f"{'model':8}{'steps':>8}{'checkpoint':>12}{'each':>11}{'writing':>12}{'looking':>12}{'all':>12}")
    for model in arguments.models:
        print(measure(model, arguments.seconds), flush=True)


if __name__ == "__main__":
    # Hydra imports this module by its name, and the counters must be the same.
    from benchmarks import reliability

    reliability.main()
