"""Paths as checkpoints, and configs that can't be read."""

from pathlib import Path

import pytest

from src.core.errors import UserError
from src.core.run_folder import (
    checkpoint_name,
    has_checkpoints,
    numbered_checkpoints,
    read_config,
    resolve_checkpoint,
    run_dir_of,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in (checkpoint_name(100), checkpoint_name(20), "last.safetensors", "best.safetensors", "images_x.part"):
        (folder / name).touch()
    return tmp_path / "run"


def test_numbered_checkpoints_come_oldest_first(run: Path) -> None:
    assert list(numbered_checkpoints(run / "checkpoints")) == [20, 100]
    assert has_checkpoints(run)
    assert not has_checkpoints(run.parent)


def test_run_folder_stands_for_its_best_checkpoint_then_its_last_then_its_newest(run: Path) -> None:
    for name in ("best.safetensors", "last.safetensors", checkpoint_name(100), checkpoint_name(20)):
        path = run / "checkpoints" / name
        assert [resolve_checkpoint(given) for given in (path, run, run / "checkpoints")] == [path] * 3
        assert run_dir_of(path) == run
        path.unlink()
    with pytest.raises(UserError, match="has no checkpoint yet; wait for its first one"):
        resolve_checkpoint(run)


def test_path_that_is_no_checkpoint_says_what_it_is(run: Path) -> None:
    empty = run / "empty"
    empty.mkdir()
    for path, sentence in (
        (run / "nothing", "there is no such file or run folder"),
        (empty, f"{empty} is an empty folder: give a run folder"),
        (run.parent, f"{run.parent} is no run folder: give a run folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            resolve_checkpoint(path)
    assert run_dir_of(run / "model.safetensors") is None


@pytest.mark.parametrize("text", [None, "", "a: [", "- 1", "\x00", "!!python/object/apply:os.getcwd []"])
def test_config_that_can_not_be_read_is_empty(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    assert read_config(tmp_path) == {}
    assert read_config(None) == {}
