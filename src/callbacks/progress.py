"""A progress bar in images, or a line now and then where the screen is no terminal."""

from dataclasses import dataclass
from typing import Any

from lightning import Trainer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from src.callbacks.periodic import PeriodicCallback
from src.core.progress import CONSOLE
from src.core.types import PositiveInt
from src.models.base import GenerativeModel


@dataclass(eq=False)
class ProgressBar(PeriodicCallback):
    """Shows images seen, images/s, the time left and the metrics in `show`, which callbacks before it have logged."""

    max_images: PositiveInt
    show: list[str]

    def __post_init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=CONSOLE,  # shared with the bars of evaluations
            disable=not CONSOLE.is_terminal,
        )

    def on_train_start(self, trainer: Trainer, model: Any) -> None:
        self.task = self.bar.add_task("", total=self.max_images, completed=model.images_seen, metrics="")
        if trainer.is_global_zero:
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, model: Any, *args: Any) -> None:
        self.bar.update(self.task, completed=min(model.images_seen, self.max_images))
        super().on_train_batch_end(trainer, model)

    def run(self, trainer: Trainer, model: GenerativeModel) -> None:
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        shown = [f"{name.removeprefix('train/')} {values[name]:,.4g}" for name in self.show if name in values]
        if "train/images_per_second" in values:
            shown.insert(0, f"{values['train/images_per_second']:,.0f} images/s")
        metrics = "  ".join(shown)
        self.bar.update(self.task, metrics=metrics)
        if trainer.is_global_zero and not CONSOLE.is_terminal:
            seconds = self.bar.tasks[self.task].time_remaining  # None right after a long evaluation
            left = "" if seconds is None else f"  {seconds:.0f} s left"
            line = f"{model.images_seen:,}/{self.max_images:,} images{left}  {metrics}"
            CONSOLE.print(line, soft_wrap=True, highlight=False)

    def on_exception(self, *args: Any) -> None:
        self.bar.stop()

    on_train_end = on_exception  # type: ignore[assignment]
