"""A budget in seconds becomes a number of images once, and the run is the same as one with that number."""

import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from src.callbacks.training_scalars import PERIOD_STEPS, WARM_UP_STEPS, MeasureSpeed
from src.core.errors import UserError
from src.core.types import UNMEASURED
from src.models.checkpoint.loading import read_checkpoint
from src.training.fit import measured
from src.training.launcher import start
from src.training.resume import set_max_images
from tests.helpers.commands import config_of, succeeded, tiny
from tests.helpers.tiny import ScriptedModel, tiny_data, train

LENGTH = (
    "model.learning_rate_factor={_target_: src.core.schedules.Linear, start: 1, end: 0, over_images: '${max_images}'}"
)


def weights(folder: Path) -> dict[str, Any]:
    return read_checkpoint(folder / "checkpoints" / "last.safetensors")["state_dict"]


def test_run_with_a_budget_is_the_run_with_the_images_that_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.training.fit.AT_LEAST_S", 0.2)
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


def test_flags_that_lightning_refuses_are_a_sentence_while_the_speed_is_measured(tmp_path: Path) -> None:
    overrides = [*tiny("gan", "metrics=none"), f"run_dir={tmp_path}", "budget_s=60", "+trainer.gradient_clip_val=1"]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(UserError, match=r"^trainer: .*gradient clipping"):
        start(config_of(*overrides), overrides)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("budget_s", "budget_cpu_s", "max_images", "measured_s"),
    [(10, None, 1000, 3), (None, 10, 400, 3), (2, 10, 200, 3), (1e-9, None, 1, 3), (None, 900, 36_000, 9),
     (3_000, 900, 36_000, 9)],
)  # fmt: skip
def test_images_follow_from_the_smaller_of_two_budgets_and_a_longer_one_is_measured_for_longer(
    budget_s: float | None, budget_cpu_s: float | None, max_images: int, measured_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[float] = []
    speeds = {"train/images_per_second": torch.tensor(100.0), "train/images_per_cpu_second": torch.tensor(40.0)}

    def build_trainer(config: Any, model: Any, callbacks: list[Any], logger: Any) -> Any:
        asked.append(callbacks[-1].at_least_s)
        return SimpleNamespace(fit=lambda *args: None, callback_metrics=speeds, is_global_zero=True)

    monkeypatch.setattr("src.training.fit.build_trainer", build_trainer)
    config = {"model": {}, "data": {}, "seed": 0, "max_images": UNMEASURED}
    found = measured(config | {"budget_s": budget_s, "budget_cpu_s": budget_cpu_s})
    assert (found["max_images"], asked) == (max_images, [measured_s])


def test_length_is_set_wherever_it_is_referred_to() -> None:
    config = {"max_images": UNMEASURED, "a": [{"over": UNMEASURED}, 3], "b": None}
    assert set_max_images(config, 7) == {"max_images": 7, "a": [{"over": 7}, 3], "b": None}


class Scripted(ScriptedModel):
    """A model whose steps take 10 ms, those to warm up a second, on a clock that it moves."""

    def __init__(self, computes: bool) -> None:
        super().__init__()
        self.computes, self.seconds, self.cpu_seconds = computes, 0.0, 0.0

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        seconds = 1.0 if batch_idx < WARM_UP_STEPS else 0.01
        self.seconds += seconds
        self.cpu_seconds += seconds if self.computes else seconds / 10
        return super().training_step(images, batch_idx)


@pytest.mark.parametrize(("computes", "cpu_speed"), [(True, 1000), (False, 10_000)])
def test_speed_is_of_whole_periods_after_the_warm_up(
    computes: bool, cpu_speed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that waits costs time by the clock only, one that computes costs both."""
    model = Scripted(computes)
    monkeypatch.setattr(time, "perf_counter", lambda: model.seconds)
    monkeypatch.setattr(time, "process_time", lambda: model.cpu_seconds)
    metrics = train(model, tiny_data(batch_size=10), UNMEASURED, [MeasureSpeed(at_least_s=0.2)]).callback_metrics
    assert model.images_seen == 10 * (WARM_UP_STEPS + 2 * PERIOD_STEPS)
    assert metrics["train/images_per_second"].item() == pytest.approx(1000)
    assert metrics["train/images_per_cpu_second"].item() == pytest.approx(cpu_speed)


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
