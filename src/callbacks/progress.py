"""A progress bar in images, or a line now and then where the screen is no terminal."""

from typing import Any

from lightning import Trainer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from src.callbacks.periodic import PeriodicCallback
from src.core.progress import CONSOLE
from src.core.types import PositiveInt
from src.models.base import GenerativeModel


class ProgressBar(PeriodicCallback):
    """Shows images seen, images/s, the time left and the metrics named in `show`. It must be the last callback."""

    def __init__(self, max_images: PositiveInt, every_images: PositiveInt, show: list[str]) -> None:
        super().__init__(every_images)
        self.max_images, self.show = max_images, show
        self.console = CONSOLE  # shared with the bars of evaluations
        columns = [
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
        ]
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)

    def on_train_start(self, trainer: Trainer, model: Any) -> None:
        self.task = self.bar.add_task("", total=self.max_images, completed=model.images_seen, metrics="")
        if trainer.is_global_zero:
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, model: Any, *args: Any) -> None:
        self.bar.update(self.task, completed=min(model.images_seen, self.max_images))
        super().on_train_batch_end(trainer, model)

    def run(self, trainer: Trainer, model: GenerativeModel) -> None:
        if not trainer.is_global_zero:
            return
        metrics = self.describe_metrics(trainer)
        self.bar.update(self.task, metrics=metrics)
        if not self.console.is_terminal:
            left = self.bar.tasks[self.task].time_remaining or 0
            line = f"{model.images_seen:,}/{self.max_images:,} images  {left:.0f} s left  {metrics}"
            self.console.print(line, soft_wrap=True, highlight=False)

    def describe_metrics(self, trainer: Trainer) -> str:
        """Return the speed and the chosen metrics as one line."""
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        speed = values.get("train/images_per_second")
        parts = [] if speed is None else [f"{speed:,.0f} images/s"]
        parts += [f"{name.removeprefix('train/')} {values[name]:,.4g}" for name in self.show if name in values]
        return "  ".join(parts)

    def on_exception(self, *args: Any) -> None:
        self.bar.stop()

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        self.bar.stop()
