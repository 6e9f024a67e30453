"""Answers to mistyped command lines, and how soon they come."""

import shlex
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from src.config.cli import CONF, as_text, composed, name_paths, split_flags
from src.core.errors import UserError
from src.core.run_folder import CONFIG
from src.core.types import UNMEASURED
from src.training.launcher import start
from tests.helpers.commands import command, config_of


def answer(line: str, name: str = "train") -> str:
    """Return the sentence that a command line is refused with."""
    return answer_to(line.split(), name)


def answer_to(arguments: list[str], name: str = "train") -> str:
    with pytest.raises(UserError) as refused:
        composed(name, *split_flags(arguments))
    return str(refused.value)


@pytest.mark.parametrize(
    ("line", "beginning"),
    [
        # A choice.
        ("model=vea", "model=vea: there is no such choice; model is one of vae, "),
        ("model/networks=dcgn", "model/networks=dcgn: there is no such choice; model/networks is one of dcgan, "),
        ("--multirun model=gan,vea", "model=vea: there is no such choice; model is one of vae, "),
        ("experiment=quickstrat", "experiment=quickstrat: there is no such choice; experiment is one of quickstart"),
        ("model=", "model=: there is no such choice; model is one of "),
        ("data=base", "data=base: there is no such choice; data is one of "),
        ("model=gan model/augmentation=base", "model/augmentation=base: there is no such choice; "),
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
        ("data.image_size=63", "data.image_size=63: not allowed here; give one of 32, 64, 128, 256."),
        ("data.val_fraction=2", "data.val_fraction=2: not allowed here; give a number of at least 0 and below 1."),
        ("seed=1.5", "seed=1.5: not allowed here; give a whole number from 0 to 2^32 - 1."),
        ("max_images=1e-3", "max_images=0.001: not allowed here; give a whole number of at least 1."),
        (
            "callbacks.evaluation.num_images=0",
            "callbacks.evaluation.num_images=0: not allowed here; give a whole number of at least 1.",
        ),
        (
            "data.batch_size=1e12",
            "data.batch_size=1000000000000.0: not allowed here; give a whole number from 1 to 65,536",
        ),
        (
            "callbacks.image_grids.num_images=1e9",
            "callbacks.image_grids.num_images=1000000000.0: not allowed here; give a whole number from 1 to 4,096.",
        ),
        (
            "data.num_images=1e7",
            "data.num_images=10000000.0: not allowed here; give a whole number from 1 to 1,000,000",
        ),
        ("trainer.precision=bf17-mixed", "trainer.precision=bf17-mixed: not allowed here; give one of bf16-mixed, "),
        ("trainer.accelerator=gpuu", "trainer.accelerator=gpuu: not allowed here; give one of gpu, "),
        ("trainer.devices=two", "trainer.devices=two: not allowed here; give a number of devices, "),
        ("trainer.devices=0", "trainer.devices=0: a run needs at least one device; give a number of devices, "),
        ("--multirun model.beta=0.5,x", "model.beta=x: not allowed here; give a number of at least 0."),
        ("model.optimizer=adam", "model.optimizer=adam: not allowed here; give an object"),
        # A path.
        (
            "resume=/nowhere",
            "resume=/nowhere: there is nothing at this path; give one of last or a checkpoint",
        ),
        ("data=folder data.root=/nowhere", "data.root=/nowhere: there is nothing at this path; give a folder, .zip"),
        ("data=folder", "data.root must be given: add data.root=..."),
        ("metrics=fid metrics.weights_path=/nowhere", "metrics.weights_path=/nowhere: there is nothing at this path"),
        (f"run_dir={'x' * 300}", f"run_dir={'x' * 300}: File name too long; give the path of a folder to write to."),
        ("data=folder data.root='~nobody-here/cats'", "data.root=~nobody-here/cats: Could not determine home"),
        ("run_dir=", "run_dir=: not allowed here; give the path of a folder to write to."),
        ("resume=last", "resume=last goes on in the folder of a run; add run_dir=RUN"),
        ("--multirun seed=1,2 resume=last", "resume=last goes on in the folder of a run; add run_dir=RUN"),
        (
            "experiment=minutes_5 max_images=1_000",
            "max_images follows from budget_s=265: leave it out, or add budget_s=null",
        ),
        ("--multirun seed=1,2 run_dir=/tmp/one", "run_dir: the jobs of a sweep need a folder each; "),
        # What can't be read.
        ("max_images", "can't read 'max_images': options look like model=gan or seed=1; "),
        ("data=[a", "can't read 'data=[a': options look like "),
        ("model=gan,vae", "model=gan,vae: several values are a sweep, so add --multirun; "),
        ("--cgf job", "--cgf: there is no such flag; there are --cfg, "),
        ("--trainer.devices=2", "--trainer.devices: there is no such flag; "),
    ],
)
def test_mistake_is_answered_with_what_is_allowed(line: str, beginning: str) -> None:
    sentence = answer(line)
    assert sentence.startswith(beginning), sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("model.likelihood=cauchy", "To take a choice of this group, write model/likelihood= and one of bernoulli, "),
        ("model.beta=warm_up", "To take a choice of this group, write model/beta= and one of cyclical, "),
        ("model.networks=dcgan", "To take a choice of this group, write model/networks= and one of conv_vae, dcgan, "),
        ("model/beta=4", "a value takes a dot: model.beta=4"),
        ("batch_size=8", "Perhaps data.batch_size=... is meant."),
        ("lr=1e-3", "Perhaps model.optimizer.lr=... is meant."),
    ],
)
def test_likely_mistakes_are_answered_with_what_to_type(line: str, hint: str) -> None:
    assert hint in answer(line)


def test_choices_come_in_the_same_order_every_time() -> None:
    lines = {command("src.train", "modle=gan", PYTHONHASHSEED=seed).stderr for seed in ("1", "2", "3")}
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("name", "line", "beginning"),
    [
        ("sample", "", "checkpoint must be given: add checkpoint=..."),
        (
            "sample",
            "checkpoint=/nowhere",
            "checkpoint=/nowhere: there is nothing at this path; ",
        ),
        ("latents", "num_direction=3", "num_direction: there is no such option; there are num_directions, "),
        ("story", "dat=folder", "dat: there is no such option; there are data, "),
        ("sample", "num_image=3", "num_image: there is no such option; there are num_images, "),
        (
            "evaluate",
            "checkpoint=/nowhere",
            "checkpoint=/nowhere: there is nothing at this path; ",
        ),
        ("evaluate", "data=foldr", "data=foldr: there is no such choice; data is one of folder, "),
        ("evaluate", "metric=fid", "metric: there is no such option; there are metrics, "),
        ("evaluate", "refrence=val", "refrence: there is no such option; there are reference, "),
    ],
)
def test_mistake_to_another_command_is_answered(name: str, line: str, beginning: str) -> None:
    assert answer(line, name).startswith(beginning), answer(line, name)


def test_paths_without_checkpoint_or_images_are_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder" / "notes").mkdir(parents=True)
    sentences = {
        "resume={}/empty": "this file is empty; give one of last or a checkpoint or its run folder or null.",
        "resume={}/folder/notes": "this folder is empty; give one of last or a checkpoint ",
        "resume={}/folder": "this folder holds no run; give ",
        "data=folder data.root={}/folder/notes": "this folder is empty; give a folder, .zip",
        "data=folder data.root={}/folder": "this folder holds no images; give a folder, .zip",
        "data=folder data.root={}/empty": "this is a file, but no archive; give a folder, .zip",
    }
    for line, sentence in sentences.items():
        typed = line.format(tmp_path)
        assert answer(typed).startswith(f"{typed.split()[-1]}: {sentence}")


def test_run_folder_stands_for_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert config_of(f"checkpoint={tmp_path}", name="sample")["checkpoint"] == str(tmp_path)


@pytest.mark.parametrize("option", ["run_dir", "hydra.run.dir"])
def test_run_folder_at_or_below_a_file_is_refused(option: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "run"):
        assert answer(f"{option}={path}").startswith(
            f"run_dir={path}: {file} is a file, not a folder; give the path of "
        )


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # file permissions do not bind root
    assert f"no permission to write to {tmp_path}; give " in answer(f"run_dir={tmp_path}/new/run")


def test_folder_that_cannot_be_made_ends_in_a_sentence() -> None:
    result = command("src.train", "run_dir=/proc/no/run")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("error: ")
    assert "/proc" in result.stderr


@pytest.mark.parametrize("value", ["~/cats", "/my cats/a (1).zip", "a=1.safetensors", "it's", "$HOME/~", "~/cats'"])
def test_what_to_type_for_a_special_value_is_told(value: str) -> None:
    sentence = answer_to(["data=folder", f"data.root={value}"])
    assert sentence.startswith(f"can't read {f'data.root={value}'!r}: ")
    (typed,) = shlex.split(sentence.partition("is quoted: ")[2].removesuffix("."))
    override = OverridesParser.create().parse_override(typed)
    assert (override.key_or_group, override.value()) == ("data.root", value.strip("'"))


@pytest.mark.parametrize(
    "name", ["a b", "it's", "x$y", 'q"r', "a=b,c", "t\\u", "ab\\", "a\\'b", "a\\${b}", "a${b}", "[c]"]
)
def test_as_text_keeps_every_character(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / CONFIG
    path.parent.mkdir()
    path.touch()
    assert composed("sample", [f"checkpoint={as_text(str(path.parent))}"])["checkpoint"] == str(path.parent)


def test_unquoted_space_is_noticed() -> None:
    sentence = answer_to(["data.root=my", "cats.zip"])
    assert sentence.endswith("""it belongs to the value before, quote it: "data.root='my cats.zip'".""")


def test_error_of_a_constructor_is_shown_in_its_own_words(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_text("none")
    options = ["metrics=fid", f"metrics.weights_path={weights}", "data.num_images=64", f"run_dir={tmp_path}/run"]
    with pytest.raises(UserError) as error:
        start(config_of("trainer=cpu", *options), [])
    assert "Error in call to target" not in str(error.value)
    assert "\n" not in str(error.value)


def test_home_in_a_quoted_value_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = config_of("run_dir='~/run'")
    assert config["run_dir"] == f"{tmp_path}/run"
    assert config["callbacks"]["checkpoints"]["folder"] == f"{tmp_path}/run/checkpoints"


def test_numbers_may_be_written_as_people_write_them() -> None:
    config = config_of("max_images=2e5", "model.beta=4", "trainer.devices=2", "data.image_size=128")
    assert (config["max_images"], config["model"]["beta"], config["trainer"]["devices"]) == (200_000, 4.0, 2)
    assert config["model"]["encoder"]["image_size"] == 128
    assert isinstance(config["max_images"], int)


def test_flags_may_stand_between_options() -> None:
    overrides, flags = split_flags(["model=vae", "--multirun", "model.beta=0.5,1"])
    assert (overrides, flags) == (["model=vae", "model.beta=0.5,1"], ["--multirun"])
    assert split_flags(["seed=1", "--cfg", "job", "model=gan"]) == (["seed=1", "model=gan"], ["--cfg", "job"])


def test_paths_without_a_name_are_one_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("beta=4").mkdir()  # a folder that looks like an option
    typed = ["runs/1", "csv=true", "it's", "beta=4", "outputs/*", "output=a.html"]
    named = name_paths(typed)
    assert named[1:] == ["csv=true", "output=a.html"]
    config = config_of(*named, name="compare")
    assert (config["runs"], config["csv"]) == (["runs/1", "it's", "beta=4", "outputs/*"], True)
    assert name_paths(["seed=1", "+trainer.x=2"]) == ["seed=1", "+trainer.x=2"]


@pytest.mark.parametrize("line", ["model=vea", "max_image=5", "model.beta=-1", "resume=/nowhere", "max_images"])
def test_mistake_ends_the_process_soon_with_one_sentence(line: str, tmp_path: Path) -> None:
    started_at = time.monotonic()
    result = command("src.train", line, f"hydra.run.dir={tmp_path}/run")
    assert time.monotonic() - started_at < 10  # 1 second on an idle machine
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


def test_full_error_of_zero_asks_for_no_traceback() -> None:
    assert command("src.train", "max_image=5", HYDRA_FULL_ERROR="0").stderr.startswith("error: max_image: ")
    assert "Traceback" in command("src.train", "max_image=5", HYDRA_FULL_ERROR="1").stderr


def test_package_lists_its_commands() -> None:
    lines = command("src").stdout.splitlines()
    for name in ("evaluate", "inspect_data", "latents", "sample", "search", "story", "train"):
        assert any(line.startswith(f"  python -m src.{name} ") for line in lines)


def test_help_lists_choices_and_examples() -> None:
    result = command("src.train", "--help")
    assert result.returncode == 0
    assert "model: autoencoder, gan, vae" in result.stdout
    assert "python -m src.train model=gan trainer.devices=2" in result.stdout


def test_cfg_job_shows_the_config() -> None:
    result = command("src.train", "model=gan", "--cfg", "job", "model.latent_dim=7")
    assert result.returncode == 0
    assert "  latent_dim: 7\n" in result.stdout


def test_an_experiment_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "my gan, 2.yaml"
    text = (CONF / "experiment" / "gan_cpu.yaml").read_text()
    path.write_text(text.replace("max_images: 200_000", "max_images: 321"))
    plain = config_of("experiment=gan_cpu", "max_images=321", "run_dir=/tmp/run")
    assert composed("train", [f"experiment='{path}'", "run_dir=/tmp/run"]) == plain
    base = tmp_path / "base.yaml"
    base.write_text("# @package _global_\ndefaults: [gan_cpu, _self_]\nmodel: {latent_dim: 32}\n")
    config = composed("train", [f"experiment={base}", "model.latent_dim=48", "run_dir=/tmp/run"])
    assert (config["model"]["latent_dim"], config["max_images"]) == (48, 200_000)
    swept = composed("train", [f"experiment={base},gan_cat_faces,{base}"], ["--multirun"])
    assert swept["model"]["latent_dim"] == 32


def test_length_given_by_images_takes_the_place_of_a_budget() -> None:
    lengths = {"debug=fast": 192, "debug=overfit": 8_000, "debug=profile": 2_000, "budget_s=null": 200_000}
    for override, length in lengths.items():
        assert composed("train", ["experiment=minutes_5", override, "run_dir=/tmp/run"])["max_images"] == length
    # Nothing is held out then.
    recipe = composed("train", ["experiment=quickstart", "debug=overfit", "run_dir=/tmp/run"])
    assert recipe["callbacks"]["evaluation"]["reference"] == "train"
    assert composed("train", ["experiment=minutes_5", "run_dir=/tmp/run"])["max_images"] == UNMEASURED


def test_options_of_a_search_that_its_file_leaves_open_can_be_typed() -> None:
    for name in ("gan_cpu", "vae_cpu"):
        typed = ["search.seeds=[0,1,2]", "search.second_objective=parameters", "cluster_options={timeout_min: 10}"]
        config = composed("search", [f"search={name}", "study=/tmp/study", *typed])
        assert config["search"]["seeds"] == [0, 1, 2]
        assert config["cluster_options"] == {"timeout_min": 10}


def test_an_experiment_that_is_no_file_is_named(tmp_path: Path) -> None:
    assert answer(f"experiment={tmp_path}/none.yaml").startswith(f"can't read the file {tmp_path}/none.yaml: ")
    (tmp_path / "bad.yaml").write_text("a: [1")
    assert "bad.yaml" in answer(f"experiment={tmp_path}/bad.yaml")


def test_budget_in_seconds_is_checked() -> None:
    assert answer("budget_cpu_s=0").startswith("budget_cpu_s=0: not allowed here; give a number above 0")


def test_search_says_what_is_wrong() -> None:
    assert answer("study=outputs/studies/some search=gan_cup", "search").startswith("search=gan_cup: there is no such")
    assert answer("search=gan_cpu", "search").startswith("study must be given")
