"""Every YAML of conf/ composes, fits the constructors that it names, and makes its object."""

import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer
from torch import nn

from src.config.cli import CONF
from src.core.types import UNMEASURED
from src.metrics.features import EfficientNetLite0, InceptionV3
from src.models.base import GenerativeModel
from src.tuning.study import as_search, suggest
from tests.helpers.commands import config_of

# The model that a nested group belongs to.
OWNERS = {
    "conv_vae": ["vae", "autoencoder"],
    "dcgan": ["gan"],
    "likelihood": ["vae", "autoencoder"],
    "beta": ["vae"],
    "adversarial_loss": ["gan", "vae_gan"],
    "gradient_penalty": ["gan"],
    "augmentation": ["gan", "vae_gan"],
}


def choices(group: str) -> list[str]:
    names = {file.stem for file in (CONF / group).glob("*.yaml")}
    return sorted(names)


def nested_choices() -> list[list[str]]:
    """Overrides for every choice of every group inside model, with every model that has the group."""
    pairs = [(group.name, choice) for group in (CONF / "model").iterdir() if group.is_dir()
             for choice in choices(f"model/{group.name}")]  # fmt: skip
    return [
        [f"model={model}", f"model/{group}={choice}"]
        for group, choice in sorted(pairs)
        for model in owners(group, choice)
    ]


def owners(group: str, choice: str) -> list[str]:
    """A new network says by its parts whose it is."""
    if group != "networks":
        return OWNERS[group]
    text = (CONF / "model" / "networks" / f"{choice}.yaml").read_text()
    return ["gan"] if "discriminator:" in text else ["vae", "autoencoder"]


def root_of(path: str, folder: Path) -> list[str]:
    """The option of a folder with an image, where the file needs one."""
    (folder / "cat.png").touch()
    needs_root = re.search(r"^root: \?\?\?|/data: folder", (CONF / path).read_text(), re.MULTILINE)
    return [f"data.root={folder}"] if needs_root else []


def made(config: Any) -> Any:
    return instantiate(config, _convert_="all")


@pytest.mark.parametrize(
    "overrides", nested_choices() + [[f"model={choice}"] for choice in choices("model")], ids=" ".join
)
def test_model_is_made(overrides: list[str]) -> None:
    model = made(config_of(*overrides, "data.image_size=32")["model"])
    assert isinstance(model, GenerativeModel)
    assert model.sample(2).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("choice", choices("data"))
def test_data_is_made_without_reading_it(choice: str, tmp_path: Path) -> None:
    data = made(config_of(f"data={choice}", *root_of(f"data/{choice}.yaml", tmp_path))["data"])
    assert isinstance(data, LightningDataModule)


@pytest.mark.parametrize("choice", choices("data/augmentation"))
def test_augmentation_of_data_is_made(choice: str) -> None:
    augmentation = made(config_of(f"data/augmentation={choice}")["data"]).augmentation
    assert (augmentation is None) == (choice == "none")


@pytest.mark.parametrize("choice", choices("trainer"))
def test_trainer_fits_lightning(choice: str) -> None:
    config = config_of(f"trainer={choice}")["trainer"]
    if config["accelerator"] in ("auto", "cpu"):
        assert isinstance(made(config | {"logger": False}), Trainer)


@pytest.mark.parametrize("choice", choices("callbacks"))
def test_callbacks_are_made(choice: str) -> None:
    callbacks = config_of(f"callbacks={choice}", "metrics=none", "run_dir=/tmp/run")["callbacks"]
    assert all(made(callback) for callback in callbacks.values() if callback)


@pytest.mark.parametrize("choice", choices("logger"))
def test_logger_is_made(choice: str, tmp_path: Path) -> None:
    for config in config_of(f"logger={choice}", f"run_dir={tmp_path}")["logger"].values():
        assert made(config).save_dir.startswith(str(tmp_path))
    assert not list(tmp_path.iterdir())  # nothing is written, and no W&B run begun, before there is something to log


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize("choice", choices("metrics"))
def test_metrics_are_made(name: str, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for network in (InceptionV3, EfficientNetLite0):  # their weights are files to read or to fetch
        monkeypatch.setattr(network, "__init__", lambda self, *args, **options: nn.Module.__init__(self))
    given = ["checkpoint=" + __file__] if name == "evaluate" else []
    monkeypatch.setattr("src.config.cli.check", lambda values: values) if given else None
    metrics = config_of(f"metrics={choice}", *given, name=name)["metrics"]
    distances = {key for network in metrics["feature_metrics"].values() for key in made(network).distances}
    assert metrics["monitor"] in distances | {None}


@pytest.mark.parametrize("choice", choices("data"))
def test_other_commands_take_every_data_set(choice: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "some.safetensors"
    checkpoint.write_bytes(b"12345678{")
    root = root_of(f"data/{choice}.yaml", tmp_path)
    for name in ("evaluate", "latents"):
        assert "_target_" in config_of(f"data={choice}", f"checkpoint={checkpoint}", *root, name=name)["data"]
    assert "data" in config_of(f"data={choice}", *root, name="story")


@pytest.mark.parametrize("group", ["experiment", "debug"])
def test_every_recipe_is_made(group: str, tmp_path: Path) -> None:
    for choice in choices(group):
        root = root_of(f"{group}/{choice}.yaml", tmp_path)
        config = config_of(f"{group}={choice}", "trainer.devices=1", "trainer.accelerator=cpu", *root)
        assert isinstance(made(config["model"]), GenerativeModel)
        assert isinstance(made(config["data"]), LightningDataModule)
        assert isinstance(made(config["trainer"] | {"logger": False}), Trainer)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("model", choices("model"))
def test_every_image_size_is_taken(model: str, size: int) -> None:
    config = config_of(f"model={model}", f"data.image_size={size}")
    assert config["data"]["image_size"] == size
    assert made(config["model"]).sample(1).shape == (1, 3, size, size)


@pytest.mark.parametrize("choice", choices("search"))
def test_every_search_fits_its_recipe(choice: str) -> None:
    config = config_of(f"search={choice}", "study=outputs/studies/some", name="search")["search"]
    search = as_search(config)
    assert isinstance(search.pruner, optuna.pruners.BasePruner)
    for number in range(3):  # at random, so that most choices of the space are met
        sampler = optuna.samplers.RandomSampler(seed=number)
        sampled = suggest(optuna.create_study(sampler=sampler).ask(), search.space)
        trial = config_of(*search.options, *sampled)
        assert trial["max_images"] == UNMEASURED
        assert isinstance(made(trial["model"]), GenerativeModel)


@pytest.mark.parametrize("choice", choices("sampler"))
def test_sampler_is_made(choice: str) -> None:
    pytest.importorskip("cmaes") if choice == "cmaes" else None
    config = config_of(f"sampler={choice}", "study=outputs/studies/some", name="search")["sampler"]
    sampler = made(config)
    assert isinstance(sampler({"a": [1, 2]}) if choice == "grid" else sampler, optuna.samplers.BaseSampler)


def test_every_yaml_is_a_choice_tested_here() -> None:
    tested = {"model", "data", "trainer", "callbacks", "logger", "metrics", "experiment", "debug", "hydra"}
    tested |= {"search", "sampler"}
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == tested


def test_wasserstein_loss_brings_its_penalty_unless_told_otherwise() -> None:
    loss = ["model=gan", "model/adversarial_loss=wasserstein"]
    assert config_of(*loss)["model"]["gradient_penalty"]["_target_"].endswith(".Interpolated")
    assert config_of(*loss, "model/gradient_penalty=none")["model"]["gradient_penalty"]["r1_gamma"] == 0
