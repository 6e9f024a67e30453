import time
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from src.callbacks.training_scalars import TrainingScalars
from tests.helpers.tiny import ScriptedModel, tiny_data, train


class Recorder(Logger):
    """Keeps what it is given, by images seen."""

    name, version = "recorder", "0"

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step == metrics["images_seen"]
        self.rows[step] = metrics

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class Alternating(ScriptedModel):
    """Every other step has a second value."""

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        values = super().training_step(images, batch_idx)
        return values | ({"second": torch.tensor(float(self.images_seen))} if self.images_seen % 8 == 0 else {})


def recorded(model: ScriptedModel, *callbacks: Callback) -> dict[int, dict[str, float]]:
    recorder = Recorder()
    train(model, tiny_data(batch_size=4), 28, callbacks, [recorder])
    return recorder.rows


def test_means_are_over_the_steps_since_the_last_report() -> None:
    """Before step t the model of batch size 4 has seen 4 (t - 1) images, which is its loss."""
    rows = recorded(ScriptedModel(), TrainingScalars(every_images=12))
    assert {step: row["train/loss"] for step, row in rows.items()} == {12: 4.0, 24: 16.0, 28: 24.0}


def test_a_value_of_some_steps_is_averaged_over_those() -> None:
    rows = recorded(Alternating(), TrainingScalars(every_images=12))
    assert {step: row.get("train/second") for step, row in rows.items()} == {12: 8.0, 24: 20.0, 28: None}


class Slow(Callback):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_start(self, *args: Any) -> None:
        time.sleep(self.seconds)

    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(self.seconds)


class SlowModel(ScriptedModel):
    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        time.sleep(0.02)
        return super().training_step(images, batch_idx)


def test_rate_counts_steps_and_no_other_callbacks() -> None:
    scalars = TrainingScalars(every_images=12)
    rows = recorded(SlowModel(), scalars, Slow(0.3))
    assert scalars.total_images == 28
    assert 7 * 0.02 < scalars.total_seconds < 7 * 0.3
    assert scalars.images_per_second == pytest.approx(28 / scalars.total_seconds)
    assert all(4 / 0.3 < row["train/images_per_second"] < 4 / 0.02 for row in rows.values())
