"""The length of a run whose budget is given in seconds: some steps are measured and thrown away, then images count."""

from dataclasses import dataclass, field
from typing import Any

from lightning import Trainer

from src.callbacks.training_scalars import TrainingScalars
from src.core.types import UNMEASURED, PositiveInt

WARM_UP_STEPS = 8
# Penalties and the like that are computed every few steps are measured in their proportion.
PERIOD_STEPS = 16
AT_LEAST_S = 3.0
SHARE_OF_BUDGET = 0.01


def set_max_images(config: Any, max_images: int) -> Any:
    """Return a config (plain dicts and lists) with max_images wherever its length is not measured yet."""
    if isinstance(config, dict):
        return {key: set_max_images(value, max_images) for key, value in config.items()}
    if isinstance(config, list):
        return [set_max_images(value, max_images) for value in config]
    return max_images if config == UNMEASURED else config


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


def seconds_to_measure(config: dict[str, Any]) -> float:
    """Return how many seconds of steps are measured for the config's budget, the smaller one if it gives two."""
    return max(AT_LEAST_S, SHARE_OF_BUDGET * min(filter(None, (config["budget_s"], config["budget_cpu_s"]))))


def images_within(config: dict[str, Any], images_per_second: float, images_per_cpu_second: float) -> int:
    """Return how many images fit into the config's budget; into both, if it gives two."""
    budgets = ((config["budget_s"], images_per_second), (config["budget_cpu_s"], images_per_cpu_second))
    return max(int(min(seconds * speed for seconds, speed in budgets if seconds)), 1)
