"""A clock for short runs, and an eye on the card while they last."""

import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from lightning import Callback, Trainer

from src.models.base import GenerativeModel

WARM_UP_STEPS = 20
measured: dict[str, Any] = {}  # of the run under way, or of the last one


class Clock(Callback):
    """Ends a run so many seconds after its first step began, or so many after its warm-up; stands before all callbacks
    but RunLength, so that nothing else is timed."""

    def __init__(self, seconds: float, after_warm_up: bool) -> None:
        self.seconds, self.after_warm_up = seconds, after_warm_up
        self.steps = 0

    def on_train_batch_start(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        if self.steps == 0:
            self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        self.steps += 1
        if self.steps == WARM_UP_STEPS:
            finish_work(model)
            self.warm, self.warm_images = time.perf_counter(), model.images_seen
        since = self.warm if self.after_warm_up and self.steps >= WARM_UP_STEPS else self.began
        out_of_time = time.perf_counter() - since > self.seconds
        trainer.should_stop |= self.steps > WARM_UP_STEPS and out_of_time
        if trainer.should_stop:
            finish_work(model)
            now = time.perf_counter()
            measured.update(
                images=model.images_seen,
                training_s=now - self.began,
                warm_up_s=self.warm - self.began,
                warm_up_images=self.warm_images,
                images_per_s=(model.images_seen - self.warm_images) / (now - self.warm),
            )


def finish_work(model: GenerativeModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def watched_card() -> Iterator[None]:
    """Peak memory in GiB and mean utilization in percent of the first card, as far as there is one to ask."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.reset_peak_memory_stats()
    query = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "500"]
    with tempfile.TemporaryFile("w+") as answers:
        try:
            watcher = subprocess.Popen(query, stdout=answers, stderr=subprocess.DEVNULL)
        except FileNotFoundError:
            watcher = None
        try:
            yield
        finally:
            measured["gib"] = torch.cuda.max_memory_allocated() / 2**30
            if watcher:
                watcher.terminate()
                watcher.wait()
                answers.seek(0)
                percents = [float(line) for line in answers if line.strip().isdigit()]
                if percents:
                    measured["utilization"] = statistics.mean(percents)
