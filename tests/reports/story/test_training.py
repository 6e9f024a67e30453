"""The runs of a story: of similar size, each trained once, and refused before the first if an option is wrong."""

import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hydra.utils import instantiate

from src.core.errors import UserError
from src.reports.story.training import COMMAND, train
from tests.helpers.commands import config_of

STORY = config_of(name="story")
MODELS = ("autoencoder", "vae", "gan")


def folder_of(command: list[str]) -> Path:
    return next(Path(option.removeprefix("run_dir=")) for option in command if option.startswith("run_dir="))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines of runs that are started, which end at once and well."""
    started: list[list[str]] = []

    def start(command: list[str], **options: Any) -> CompletedProcess:
        started.append(command)
        folder_of(command).mkdir(parents=True)
        return CompletedProcess(command, returncode=0)

    monkeypatch.setattr("src.reports.story.training.subprocess.run", start)
    return started


def parts(folder: Path, *options: str, models: Sequence[str] = MODELS) -> dict[Path, list[str]]:
    return {folder / model: [*STORY["all"], *STORY[model], *options] for model in models}


def test_recipes_make_models_of_like_size() -> None:
    sizes = []
    for model in MODELS:
        made = instantiate(config_of(*STORY["all"], *STORY[model])["model"], _convert_="all")
        assert type(made).__name__.lower() == model
        sizes.append(sum(value.numel() for value in made.parameters() if value.requires_grad))
    assert max(sizes) < 1.6 * min(sizes)


@pytest.mark.parametrize("data", ["drawn_cats", "folder", "cat_faces", "afhq_cat"])
def test_quick_runs_can_be_of_every_data_set(data: str, tmp_path: Path) -> None:
    for model in MODELS:
        root = [f"data.root={tmp_path}"] if data == "folder" else []
        (tmp_path / "cat.png").touch()
        config = config_of(*STORY["all"], *STORY[model], *STORY["quick_options"], f"data={data}", *root)
        assert config["data"]["limit_images"] == 4_000


def test_each_run_is_the_command_that_the_page_shows(tmp_path: Path, runs: list[list[str]]) -> None:
    train(parts(tmp_path, "seed=3"))
    assert [command[:3] for command in runs] == [[sys.executable, "-m", "src.train"]] * 3
    for command, folder in zip(runs, parts(tmp_path, "seed=3"), strict=True):
        assert " ".join(["python", *command[1:]]) == (folder / COMMAND).read_text().strip()
        assert "resume=last" in command  # what was interrupted goes on


def test_finished_runs_are_not_trained_again(tmp_path: Path, runs: list[list[str]]) -> None:
    train(parts(tmp_path, models=MODELS[:2]))
    train(parts(tmp_path))
    assert [folder_of(command).name for command in runs] == list(MODELS)


def test_a_folder_of_another_story_is_refused(tmp_path: Path, runs: list[list[str]]) -> None:
    train(parts(tmp_path))
    with pytest.raises(UserError, match="holds a run with other options"):
        train(parts(tmp_path, "data.image_size=32"))
    assert len(runs) == 3


def test_a_failed_run_ends_the_story_and_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "src.reports.story.training.subprocess.run", lambda command, **_: CompletedProcess(command, returncode=7)
    )
    with pytest.raises(SystemExit, match="7"):
        train(parts(tmp_path))
    assert not any((folder / COMMAND).exists() for folder in parts(tmp_path))


def test_options_that_one_run_has_not_are_refused_before_any(tmp_path: Path, runs: list[list[str]]) -> None:
    with pytest.raises(Exception, match="beta"):
        train(parts(tmp_path, "model.beta=2"))
    assert runs == []
