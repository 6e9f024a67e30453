"""What a mistyped command line is answered with, and how soon."""

import time
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from src.config.cli import check_ahead, explain, split_flags
from src.core.errors import UserError
from tests.helpers.commands import command, config_of

JOBS = {
    "train": "src.train.train",
    "evaluate": "src.evaluate.evaluate",
    "sample": "src.sample.sample",
    "latents": "src.latents.latents",
    "story": "src.story.story",
}


def answer(line: str, name: str = "train") -> str:
    """The sentence that a command line is refused with."""
    GlobalHydra.instance().clear()
    arguments = line.split()
    try:
        check_ahead(name, JOBS[name], *split_flags(arguments))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return explain(error, name, arguments)
    raise AssertionError(f"{line} was accepted")


@pytest.mark.parametrize(
    ("line", "beginning"),
    [
        # A choice.
        ("model=vea", "model=vea: there is no such choice; model is one of vae, "),
        ("model/networks=dcgn", "model/networks=dcgn: there is no such choice; model/networks is one of dcgan, "),
        ("--multirun model=gan,vea", "model=vea: there is no such choice; model is one of vae, "),
        ("experiment=quickstrat", "experiment=quickstrat: there is no such choice; experiment is one of quickstart"),
        ("model=", "model=: there is no such choice; model is one of "),
        ("data=base", "data=base: base is what the choices of data share; "),
        ("model=gan model/augmentation=base", "model/augmentation=base: base is what "),
        # A group.
        ("modle=gan", "modle: there is no such option; there are model, "),
        ("model/likelihod=laplace", "model/likelihod: there is no such group; model=vae has model/likelihood, "),
        ("modle/likelihood=laplace", "modle/likelihood: there is no such group; there are model/likelihood, "),
        ("model/adversarial_loss=hinge", "model/adversarial_loss: there is no such group; model=vae has model/"),
        # A key.
        ("model.latnt_dim=3", "model.latnt_dim: there is no such option; model=vae has latent_dim, "),
        ("model=gan model.latnt_dim=3", "model.latnt_dim: there is no such option; model=gan has latent_dim, "),
        ("model.encodr.width=3", "model.encodr: there is no such option; model=vae has encoder, "),
        ("model.beta.start=3", "model.beta.start: model.beta is one value, "),
        ("max_image=5", "max_image: there is no such option; there are max_images, "),
        ("data.batchsize=3", "data.batchsize: there is no such option; data=drawn_cats has batch_size, "),
        ("--multirun model.bta=1,2", "model.bta: there is no such option; model=vae has beta, "),
        ("+trainer.max_step=3", "trainer.max_step: lightning.Trainer has no such option; it has max_steps, "),
        (
            "+model.optimizer.weight_decy=1",
            "model.optimizer.weight_decy: torch.optim.Adam has no such option; it has weight_",
        ),
        # A value; where the config copies it, the place that the user can change is named.
        ("model.beta=abc", "model.beta=abc: not allowed here; give a number of at least 0."),
        ("model.beta=-1", "model.beta=-1: not allowed here; give a number of at least 0."),
        ("model.latent_dim=null", "model.latent_dim=null: not allowed here; give a whole number of at least 1."),
        ("data.image_size=63", "data.image_size=63: not allowed here; give one of "),
        ("data.val_fraction=2", "data.val_fraction=2: not allowed here; give a number of at least 0 and below 1."),
        ("seed=1.5", "seed=1.5: not allowed here; give a whole number from 0 to 2^32 - 1."),
        ("max_images=1e-3", "max_images=0.001: not allowed here; give a whole number of at least 1."),
        ("metrics.num_images=0", "metrics.num_images=0: not allowed here; give a whole number of at least 1."),
        ("trainer.precision=bf17-mixed", "trainer.precision=bf17-mixed: not allowed here; give one of bf16-mixed, "),
        ("trainer.accelerator=gpuu", "trainer.accelerator=gpuu: not allowed here; give one of gpu, "),
        ("trainer.devices=two", "trainer.devices=two: not allowed here; give a number of devices, "),
        ("trainer.devices=0", "trainer.devices=0: not allowed here; give a number of devices, "),
        ("--multirun model.beta=0.5,x", "model.beta=x: not allowed here; give a number of at least 0."),
        ("model.optimizer=adam", "model.optimizer=adam: not allowed here; give an object"),
        # A path.
        (
            "resume=/nowhere.safetensors",
            "resume=/nowhere.safetensors: there is nothing at this path; give one of last or a checkpoint",
        ),
        ("data=folder data.root=/nowhere", "data.root=/nowhere: there is nothing at this path; give a folder, .zip"),
        ("data=folder", "data.root must be given: add data.root=..."),
        ("metrics=fid metrics.weights_path=/nowhere", "metrics.weights_path=/nowhere: there is nothing at this path"),
        ("run_dir=", "run_dir=: not allowed here; give the path of a folder."),
        ("--multirun seed=1,2 run_dir=/tmp/one", "run_dir: the jobs of a sweep need a folder each; "),
        # What can't be read.
        ("max_images", "can't read 'max_images': options look like model=gan or seed=1; "),
        ("data=[a", "can't read 'data=[a': options look like "),
        ("model=gan,vae", "Ambiguous value for argument 'model=gan,vae'"),
        ("--cgf job", "--cgf: there is no such flag; there are --cfg, "),
        ("--trainer.devices=2", "--trainer.devices: there is no such flag; "),
    ],
)
def test_mistake_is_answered_with_what_is_allowed(line: str, beginning: str) -> None:
    sentence = answer(line)
    assert sentence.startswith(beginning), sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "line", "beginning"),
    [
        ("sample", "", "checkpoint must be given: add checkpoint=..."),
        (
            "sample",
            "checkpoint=/nowhere.safetensors",
            "checkpoint=/nowhere.safetensors: there is nothing at this path; ",
        ),
        ("latents", "num_direction=3", "num_direction: there is no such option; there are num_directions, "),
        ("story", "dat=folder", "dat: there is no such option; there are data, "),
        ("sample", "num_image=3", "num_image: there is no such option; there are num_images, "),
        (
            "evaluate",
            "checkpoint=/nowhere.safetensors",
            "checkpoint=/nowhere.safetensors: there is nothing at this path; ",
        ),
        ("evaluate", "data=foldr", "data=foldr: there is no such choice; data is one of folder, "),
        ("evaluate", "metric=fid", "metric: there is no such option; there are metrics, "),
        ("evaluate", "refrence=val", "refrence: there is no such option; there are reference, "),
    ],
)
def test_mistake_to_another_command_is_answered(name: str, line: str, beginning: str) -> None:
    assert answer(line, name).startswith(beginning), answer(line, name)


def test_files_that_hold_no_checkpoint_or_no_images_are_seen_without_torch(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    assert answer(f"resume={tmp_path}/text.safetensors").endswith(
        "give one of last or a checkpoint of a run folder (checkpoints/best.safetensors) or a run folder or null."
    )
    assert "not allowed here; give a folder, .zip" in answer(f"data=folder data.root={tmp_path}")


def test_numbers_may_be_written_as_people_write_them() -> None:
    config = config_of("max_images=2e5", "model.beta=4", "trainer.devices=2", "data.image_size=128")
    assert (config["max_images"], config["model"]["beta"], config["trainer"]["devices"]) == (200_000, 4.0, 2)
    assert config["model"]["encoder"]["image_size"] == 128
    assert isinstance(config["max_images"], int)


def test_flags_may_stand_between_options() -> None:
    overrides, flags = split_flags(["model=vae", "--multirun", "model.beta=0.5,1"])
    assert (overrides, flags) == (["model=vae", "model.beta=0.5,1"], ["--multirun"])
    assert split_flags(["seed=1", "--cfg", "job", "model=gan"]) == (["seed=1", "model=gan"], ["--cfg", "job"])


@pytest.mark.parametrize(
    "line", ["model=vea", "max_image=5", "model.beta=-1", "resume=/nowhere.safetensors", "max_images"]
)
def test_mistake_ends_the_process_soon_with_one_sentence(line: str, tmp_path: Path) -> None:
    started_at = time.monotonic()
    result = command("src.train", line, f"hydra.run.dir={tmp_path}/run")
    assert time.monotonic() - started_at < 10  # 1 second on an idle machine
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


def test_help_lists_choices_and_examples() -> None:
    result = command("src.train", "--help")
    assert result.returncode == 0
    assert "model: autoencoder, gan, vae" in result.stdout
    assert "python -m src.train model=gan trainer.devices=2" in result.stdout


def test_cfg_job_shows_the_config() -> None:
    result = command("src.train", "model=gan", "--cfg", "job", "model.latent_dim=7")
    assert result.returncode == 0
    assert "  latent_dim: 7\n" in result.stdout
