import time
from typing import Any

import pytest
from lightning import Callback
from torch import Tensor

from src.callbacks.data_wait import DataWait
from tests.callbacks.test_training_scalars import Recorder
from tests.helpers.tiny import ScriptedModel, tiny_data, train

STEP_S, BATCH_S = 0.02, 0.06


class SlowModel(ScriptedModel):
    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        time.sleep(STEP_S)
        return super().training_step(images, batch_idx)


class Slow(Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(0.3)


class Clock:
    """Time passes only where one sleeps."""

    now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_fraction_is_of_the_time_between_steps_and_no_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)

    def slow(images: Tensor, images_seen: int) -> Tensor:
        time.sleep(BATCH_S)
        return images

    data = tiny_data(batch_size=4, augmentation=slow)
    recorder = Recorder()
    train(SlowModel(), data, 28, [DataWait(every_images=12), Slow()], [recorder])
    fractions = [row["train/data_wait_fraction"] for row in recorder.rows.values()]
    assert fractions == pytest.approx([BATCH_S / (BATCH_S + STEP_S)] * 3)
