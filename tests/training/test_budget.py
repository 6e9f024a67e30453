"""A budget in seconds becomes a number of images once, and the run is the same as one with that number."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from src.core.types import UNMEASURED
from src.models.checkpoint.loading import read_checkpoint
from src.training.budget import MeasureSpeed, set_max_images
from src.training.launcher import start
from tests.helpers.commands import config_of, succeeded, tiny

LENGTH = (
    "model.learning_rate_factor={_target_: src.core.schedules.Linear, start: 1, end: 0, over_images: '${max_images}'}"
)


def weights(folder: Path) -> dict[str, Any]:
    return read_checkpoint(folder / "checkpoints" / "last.safetensors")["state_dict"]


def test_run_with_a_budget_is_the_run_with_the_images_that_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.training.budget.AT_LEAST_S", 0.2)
    budgeted = [*tiny("gan", "metrics=none", LENGTH), f"run_dir={tmp_path}/budget", "budget_cpu_s=0.5"]
    config = config_of(*budgeted)
    assert config["max_images"] == config["callbacks"]["run_length"]["max_images"] == UNMEASURED
    start(config, budgeted)
    written = yaml.safe_load((tmp_path / "budget" / "config.yaml").read_text())
    length = written["max_images"]
    assert 16 <= length < 100_000
    assert written["model"]["learning_rate_factor"]["over_images"] == length
    plain = [*tiny("gan", "metrics=none", LENGTH), f"run_dir={tmp_path}/plain", f"max_images={length}"]
    start(config_of(*plain), plain)
    found, expected = weights(tmp_path / "budget"), weights(tmp_path / "plain")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    # Resumed with the same command, it keeps its length.
    again = [*budgeted[:-1], "budget_cpu_s=3000", "resume=last"]
    start(config_of(*again), again)
    assert yaml.safe_load((tmp_path / "budget" / "config.yaml").read_text())["max_images"] == length


def test_images_follow_from_the_slower_of_two_budgets() -> None:
    speed = MeasureSpeed(images_per_second=100.0, images_per_cpu_second=40.0)
    assert speed.max_images(budget_s=10, budget_cpu_s=None) == 1000
    assert speed.max_images(budget_s=None, budget_cpu_s=10) == 400
    assert speed.max_images(budget_s=2, budget_cpu_s=10) == 200
    assert speed.max_images(budget_s=1e-9, budget_cpu_s=None) == 1


def test_length_is_set_wherever_it_is_referred_to() -> None:
    config = {"max_images": UNMEASURED, "a": [{"over": UNMEASURED}, 3], "b": None}
    assert set_max_images(config, 7) == {"max_images": 7, "a": [{"over": 7}, 3], "b": None}


def test_processor_seconds_are_those_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that waits costs time by the clock only, one that computes costs both."""

    class Trainer:
        should_stop = False

    class Model:
        device, images_seen = torch.device("cpu"), 0

    def measured(step: Any) -> MeasureSpeed:
        monkeypatch.setattr("src.training.budget.AT_LEAST_S", 0.0)
        speed, trainer, model = MeasureSpeed(), Trainer(), Model()
        while not trainer.should_stop:
            model.images_seen += 10
            step()
            speed.on_train_batch_end(trainer, model)  # type: ignore[arg-type]
        return speed

    def compute() -> None:
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass

    waiting, computing = measured(lambda: time.sleep(0.01)), measured(compute)
    assert waiting.images_per_second <= 1000
    assert waiting.images_per_cpu_second > 5 * waiting.images_per_second
    assert computing.images_per_cpu_second == pytest.approx(1000, rel=0.1)


@pytest.mark.slow
def test_two_ranks_measure_one_length(tmp_path: Path) -> None:
    shown = succeeded(
        "src.train", *tiny("gan", "metrics=none"), f"run_dir={tmp_path}/run", "trainer.devices=2", "budget_cpu_s=4"
    )
    length = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["max_images"]
    assert f"max_images={length}" in shown
    assert (
        max(int(row.split(",")[0]) for row in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]) >= length
    )
