"""How much of the training time passes before a batch is there."""

import time
from typing import Any

from lightning import Callback, Trainer

from src.callbacks.periodic import log_metrics, should_run
from src.core.types import PositiveInt
from src.models.base import GenerativeModel


class DataWait(Callback):
    """Logs train/data_wait_fraction: the share of the training time, without evaluations and the like, between the end
    of a step and the beginning of the next, in the first process. Batches are read, moved and augmented then; where a
    device still computes what it was given before, it is not all lost. Right after TrainingScalars, which waits for
    the device at each report."""

    def __init__(self, every_images: PositiveInt) -> None:
        self.every_images = every_images
        self.waited, self.passed = 0.0, 0.0

    def on_train_batch_start(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        self.waited += time.perf_counter() - model.training_since

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        self.passed += time.perf_counter() - model.training_since
        if should_run(trainer, model, self.every_images):
            log_metrics(trainer, {"train/data_wait_fraction": self.waited / self.passed}, model.images_seen)
            self.waited, self.passed = 0.0, 0.0
