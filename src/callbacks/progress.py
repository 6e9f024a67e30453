"""A progress bar in images, or a line now and then where the screen is no terminal."""

import time
from typing import Any

from lightning import Callback, Trainer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from src.callbacks.periodic import should_run
from src.core.progress import CONSOLE
from src.core.types import PositiveInt
from src.models.base import GenerativeModel


class ProgressBar(Callback):
    """Images seen, images/s, the first metrics and the time left. The last callback: it shows what the others found."""

    def __init__(self, max_images: PositiveInt, every_images: PositiveInt, show: list[str]) -> None:
        self.max_images, self.every_images, self.show = max_images, every_images, show
        self.console = CONSOLE

    def on_train_start(self, trainer: Trainer, model: GenerativeModel) -> None:  # type: ignore[override]
        if not trainer.is_global_zero:
            return
        columns = [
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
        ]
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=self.max_images, completed=model.images_seen, metrics="")
        self.bar.start()
        self.started_at, self.started_with = time.perf_counter(), model.images_seen

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        if not trainer.is_global_zero:
            return
        self.bar.update(self.task, completed=min(model.images_seen, self.max_images))
        if should_run(trainer, model, self.every_images):
            text = self.text(trainer)
            self.bar.update(self.task, metrics=text)
            if not self.console.is_terminal:
                seconds = time.perf_counter() - self.started_at
                left = seconds * (self.max_images - model.images_seen) / (model.images_seen - self.started_with)
                self.console.print(
                    f"{model.images_seen:,}/{self.max_images:,} images  {max(left, 0):.0f} s left  {text}",
                    soft_wrap=True,
                    highlight=False,
                )

    def text(self, trainer: Trainer) -> str:
        shown = {name: trainer.callback_metrics[name].item() for name in self.show if name in trainer.callback_metrics}
        speed = trainer.callback_metrics.get("train/images_per_second")
        parts = [f"{speed.item():,.0f} images/s"] if speed is not None else []
        return "  ".join(parts + [f"{name.removeprefix('train/')} {value:,.4g}" for name, value in shown.items()])

    def on_exception(self, trainer: Trainer, model: GenerativeModel, exception: BaseException) -> None:  # type: ignore[override]
        self.teardown(trainer, model, "fit")

    def teardown(self, trainer: Trainer, model: GenerativeModel, stage: str) -> None:  # type: ignore[override]
        if trainer.is_global_zero and hasattr(self, "bar"):
            self.bar.stop()
