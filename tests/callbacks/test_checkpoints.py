from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer

from src.callbacks.checkpoints import Checkpoints
from src.callbacks.periodic import log_metrics
from src.core.run_folder import checkpoint_name, numbered_checkpoints
from src.models.base import GenerativeModel
from src.models.checkpoint.format import read_file
from src.models.vae import VAE
from tests.helpers.tiny import ScriptedModel, assert_same, identical, snapshot, tiny_data, tiny_vae, train

NAN = float("nan")


class Reports(Callback):
    """One given value of `fd` after each batch."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        log_metrics(trainer, {"fd": self.values[model.images_seen // 4 - 1]}, model.images_seen)


def images_seen(path: Path) -> int:
    return read_file(path)["images_seen"]


@pytest.mark.parametrize(
    ("values", "best"),
    [([3, 1, 2], 8), ([1, 2, 3], 4), ([3, 2, 1], 12), ([2, 1, 1], 8), ([NAN, 2, 3], 8), ([2, NAN, 3], 4)],
)
def test_best_is_where_the_monitored_value_is_lowest(values: list[float], best: int, tmp_path: Path) -> None:
    callbacks = [Reports(values), Checkpoints(str(tmp_path), every_images=4, monitor="fd")]
    train(ScriptedModel(), tiny_data(batch_size=4), max_images=12, callbacks=callbacks)
    assert images_seen(tmp_path / "best.safetensors") == best
    assert images_seen(tmp_path / "last.safetensors") == 12
    numbers = [f"images_{seen:09d}.safetensors" for seen in (4, 8, 12)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", *numbers, "last.safetensors"]


class ReportsMixture(Reports):
    """A falling `fd`, and a given value of it for samples of the mixture."""

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        value = self.values[model.images_seen // 4 - 1]
        log_metrics(trainer, {"fd": -model.images_seen, "fd_mixture": value}, model.images_seen)


def test_best_follows_the_mixture_where_a_model_is_sampled_from_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), every_images=4, monitor="fd")
    train(ScriptedModel(), tiny_data(batch_size=4), 12, [ReportsMixture([3, 1, 2]), checkpoints])
    assert images_seen(tmp_path / "best.safetensors") == 8
    assert (checkpoints.monitor, checkpoints.best["fd_mixture"]) == ("fd_mixture", 1)


@pytest.mark.parametrize("monitor", [None, "never reported"])
def test_files_come_without_a_monitored_value_too(monitor: str | None, tmp_path: Path) -> None:
    train(ScriptedModel(), tiny_data(), 12, [Checkpoints(str(tmp_path), every_images=4, monitor=monitor)])
    assert images_seen(tmp_path / "last.safetensors") == 12
    assert images_seen(tmp_path / "best.safetensors") == 12


def test_nan_throughout_still_leaves_a_checkpoint(tmp_path: Path) -> None:
    train(ScriptedModel(), tiny_data(), 8, [Reports([NAN, NAN]), Checkpoints(str(tmp_path), 4, monitor="fd")])
    assert (tmp_path / "best.safetensors").exists()


def test_checkpoint_is_plain_and_explains_itself(tmp_path: Path) -> None:
    model = tiny_vae()
    model.config = {"model": {"latent_dim": 6, "rates": [1, 2.5]}, "resume": None}
    train(model, tiny_data(), 8, [Checkpoints(str(tmp_path), every_images=1000, monitor=None)])
    checkpoint = read_file(tmp_path / "last.safetensors")
    assert checkpoint["config"] == model.config
    assert checkpoint["images_seen"] == 8
    loaded: VAE = tiny_vae()
    loaded.load_state_dict(checkpoint["state_dict"])
    assert identical(loaded, snapshot(model))


def test_best_so_far_survives_a_resume(tmp_path: Path) -> None:
    values = [3.0, 1.0, 2.0, 1.5]
    callbacks = [Reports(values), Checkpoints(str(tmp_path), every_images=4, monitor="fd")]
    train(ScriptedModel(), tiny_data(), 8, callbacks)
    state = read_file(tmp_path / "last.safetensors")["callbacks"]["Checkpoints"]
    resumed = Checkpoints(str(tmp_path), every_images=4, monitor="fd")
    resumed.load_state_dict(state)
    model = ScriptedModel()
    model.images_seen = 8
    train(model, tiny_data(), 16, [Reports(values), resumed])
    assert resumed.best["fd"] == 1.0
    assert images_seen(tmp_path / "best.safetensors") == 8
    assert images_seen(tmp_path / "last.safetensors") == 16


def test_milestones_are_what_samples_at_powers_of_two_and_are_kept(tmp_path: Path) -> None:
    model = tiny_vae()
    model.config = {"model": {}}
    train(model, tiny_data(), 72, [Checkpoints(str(tmp_path), every_images=4, monitor=None, keep=1, milestones=True)])
    milestones = numbered_checkpoints(tmp_path / "milestones")
    assert [*milestones] == [4, 8, 16, 32, 64]
    content = read_file(milestones[64])
    assert content.keys() == {"config", "inference", "images_seen", "state_dict", "export"}
    parts = set(content["inference"]["parts"].values())
    assert {name.partition(".")[0] for name in content["state_dict"]} == parts == {*VAE.inference_parts.values()}
    assert [*numbered_checkpoints(tmp_path)] == [72]


def test_milestone_has_the_weights_of_its_step(tmp_path: Path) -> None:
    for folder, end in (("long", 12), ("short", 8)):
        callback = Checkpoints(str(tmp_path / folder), every_images=1000, monitor=None, milestones=True)
        model = tiny_vae()
        model.config = {"model": {}}
        torch.manual_seed(0)
        train(model, tiny_data(), end, [callback])
    milestone = read_file(tmp_path / "long" / "milestones" / checkpoint_name(8))["state_dict"]
    end_state = read_file(tmp_path / "short" / "last.safetensors")["state_dict"]
    assert milestone
    assert_same(milestone, {name: end_state[name].half() for name in milestone})
