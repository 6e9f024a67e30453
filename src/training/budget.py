"""The length of a run whose budget is given in seconds: some steps are measured and thrown away, then images count."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, Trainer

from src.core.distributed import all_reduce_mean
from src.core.types import UNMEASURED

WARM_UP_STEPS = 8
# Penalties and the like that are computed every few steps are measured in their proportion.
PERIOD_STEPS = 16
AT_LEAST_S = 3.0


def set_max_images(config: Any, max_images: int) -> Any:
    """Return a config (plain dicts and lists) with max_images wherever its length is not measured yet."""
    if isinstance(config, dict):
        return {key: set_max_images(value, max_images) for key, value in config.items()}
    if isinstance(config, list):
        return [set_max_images(value, max_images) for value in config]
    return max_images if config == UNMEASURED else config


@dataclass(eq=False)
class MeasureSpeed(Callback):
    """Measures images per second, and per processor second of all ranks, over some steps, and ends the run."""

    images_per_second: float = 0.0
    images_per_cpu_second: float = 0.0
    steps: int = -WARM_UP_STEPS

    def on_train_batch_end(self, trainer: Trainer, model: Any, *args: Any) -> None:
        self.steps += 1
        if self.steps < 0 or self.steps % PERIOD_STEPS:
            return
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        now = torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
        if self.steps == 0:
            self.began, self.images_before = now, model.images_seen
            return
        means, ranks = all_reduce_mean((now - self.began).float().to(model.device)[None])
        seconds, cpu_seconds = means.tolist()
        images = model.images_seen - self.images_before
        self.images_per_second, self.images_per_cpu_second = images / seconds, images / (cpu_seconds * ranks)
        trainer.should_stop = seconds >= AT_LEAST_S

    def max_images(self, budget_s: float | None, budget_cpu_s: float | None) -> int:
        """Return how many images fit into the budget; into both, if two are given."""
        budgets = ((budget_s, self.images_per_second), (budget_cpu_s, self.images_per_cpu_second))
        return max(int(min(seconds * speed for seconds, speed in budgets if seconds)), 1)
