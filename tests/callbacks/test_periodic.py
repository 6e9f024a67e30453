from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lightning import Callback, Trainer

from src.callbacks.periodic import should_run
from src.core.errors import UserError
from src.models.base import GenerativeModel
from src.training.launcher import start
from tests.helpers.commands import config_of, tiny
from tests.helpers.tiny import ScriptedModel, tiny_data, train


def due_at(images_seen: int, every_images: int, batch_size: int, is_last: bool = False) -> bool:
    trainer = SimpleNamespace(datamodule=SimpleNamespace(batch_size=batch_size), should_stop=is_last)
    return should_run(
        cast(Trainer, trainer), cast(GenerativeModel, SimpleNamespace(images_seen=images_seen)), every_images
    )


@pytest.mark.parametrize("first", [0, 12])
@pytest.mark.parametrize(("every_images", "batch_size"), [(100, 4), (100, 7), (7, 100), (64, 64), (1, 1), (10, 6)])
def test_every_multiple_is_crossed_exactly_once(every_images: int, batch_size: int, first: int) -> None:
    steps = range(first + batch_size, first + 100 * batch_size, batch_size)
    crossed = [images_seen // every_images for images_seen in steps if due_at(images_seen, every_images, batch_size)]
    assert len(crossed) == len(set(crossed))
    if every_images >= batch_size:
        assert crossed == list(range(first // every_images + 1, steps[-1] // every_images + 1))
    else:
        assert len(crossed) == len(steps)


def test_last_step_is_always_due() -> None:
    assert due_at(12, every_images=10_000, batch_size=4, is_last=True)
    assert not due_at(12, every_images=10_000, batch_size=4)


class Due(Callback):
    def __init__(self, every_images: int) -> None:
        self.every_images, self.steps = every_images, list[int]()

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        if should_run(trainer, model, self.every_images):
            self.steps.append(model.images_seen)


@pytest.mark.parametrize(("max_images", "trained_on"), [(4, 4), (15, 16), (16, 16), (17, 20), (1, 4)])
def test_run_length_is_rounded_up_to_a_batch(max_images: int, trained_on: int) -> None:
    model = ScriptedModel()
    train(model, tiny_data(batch_size=4), max_images)
    assert model.images_seen == trained_on


def test_the_last_of_the_trainers_own_steps_is_the_end_too(tmp_path: Path) -> None:
    start(config_of(*tiny("gan", "metrics=none", "+trainer.max_steps=6", f"run_dir={tmp_path}")), [])
    assert (tmp_path / "checkpoints" / "images_000000048.safetensors").is_file()  # two optimizers: three batches of 16


def test_callbacks_of_a_run_are_due_at_their_intervals_and_at_the_end() -> None:
    callbacks = [Due(8), Due(10), Due(1000)]
    train(ScriptedModel(), tiny_data(batch_size=4), max_images=30, callbacks=callbacks)
    assert [callback.steps for callback in callbacks] == [[8, 16, 24, 32], [12, 20, 32], [32]]


def test_a_run_that_is_over_already_is_refused() -> None:
    model = ScriptedModel()
    model.images_seen = 2000
    with pytest.raises(UserError, match="2,000 images already"):
        train(model, tiny_data(), max_images=2000)
