from typing import Any

import pytest
from lightning import Callback

from src.callbacks.progress import ProgressBar
from tests.helpers.tiny import ScriptedModel, tiny_data, train


class Clock(Callback):
    """A second for each step, and a minute more for the sixth, as for an evaluation."""

    def __init__(self) -> None:
        self.seconds = self.steps = 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.steps += 1
        self.seconds += 61 if self.steps == 6 else 1


def test_lines_of_a_file_say_how_long_the_rest_takes(capsys: pytest.CaptureFixture[str]) -> None:
    clock, bar = Clock(), ProgressBar(every_images=4, max_images=40, show=[])
    bar.bar.get_time = lambda: clock.seconds
    train(ScriptedModel(), tiny_data(batch_size=4), max_images=40, callbacks=[clock, bar])
    lines = [line.split("  ")[1] for line in capsys.readouterr().err.splitlines() if "40 images  " in line]
    # The first line has nothing to judge by, nor has the one after a long pause.
    assert lines == [
        "",
        "8 s left",
        "7 s left",
        "6 s left",
        "5 s left",
        "",
        "3 s left",
        "2 s left",
        "1 s left",
        "0 s left",
    ]
