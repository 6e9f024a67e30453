"""A run that goes on begins with a folder as it was at its checkpoint, wherever its beginning is killed."""

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from src.core.files import link_or_copy, write_atomic
from src.core.run_folder import checkpoint_name
from src.models.checkpoint.format import to_bytes
from src.models.checkpoint.loading import read_checkpoint
from src.training.resume import latest_valid_checkpoint, restore_rows, restore_run_dir

BEST = {50: 50, 100: 50, 150: 150}  # which checkpoint was the best when one was written

INFERENCE: dict[str, Any] = {"config": {}, "parts": {}}


class Killed(BaseException):
    pass


@contextmanager
def killed_at(operation: int) -> Iterator[None]:
    """Raises instead of the change of the disk with this number."""
    numbers = count()

    def fatal(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            if next(numbers) == operation:
                raise Killed
            return change(*args, **kwargs)

        return changed

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((os, "replace"), (os, "link"), (os, "unlink"), (shutil, "copyfile")):
            patch.setattr(module, name, fatal(getattr(module, name)))
        yield


def run_until(last: int, folder: Path) -> Path:
    """A run that writes a row every 10 images, a grid and a checkpoint every 50."""
    checkpoints = folder / "checkpoints"
    for seen in range(50, last + 1, 50):
        content = {"config": {"model": {}, "data": {}}, "state_dict": {}, "inference": INFERENCE, "images_seen": seen}
        best = {"callbacks": {"Checkpoints": {"best": {"images_seen": BEST[seen]}}}}
        write_atomic(checkpoints / checkpoint_name(seen), to_bytes(content | best))
        write_atomic(checkpoints / "milestones" / checkpoint_name(seen), f"weights at {seen}")
    link_or_copy(checkpoints / checkpoint_name(last), checkpoints / "last.safetensors")
    link_or_copy(checkpoints / checkpoint_name(BEST[last]), checkpoints / "best.safetensors")
    rows = "".join(f"{seen},{seen / 7}\n" for seen in range(0, last + 11, 10))
    (folder / "metrics.csv").write_text(f"images_seen,loss\n{rows}")
    (folder / "images").mkdir()
    for seen in range(0, last + 1, 50):
        (folder / "images" / f"samples_{seen:09d}.png").write_text(f"cats at {seen}")
    (folder / "images" / "growing_up.webp").write_text("all of the run")
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events").write_text("curves")
    return folder


def assert_is_as_it_was_at(seen: int, run: Path) -> None:
    with (run / "metrics.csv").open(newline="") as file:
        assert [int(row["images_seen"]) for row in csv.DictReader(file)] == list(range(0, seen + 1, 10))
    images = sorted((run / "images").iterdir())
    assert [path.read_text() for path in images] == [f"cats at {at}" for at in range(0, seen + 1, 50)]
    milestones = sorted((run / "checkpoints" / "milestones").iterdir())
    assert [path.read_text() for path in milestones] == [f"weights at {at}" for at in range(50, seen + 1, 50)]
    assert (run / "tensorboard" / "events").read_text() == "curves"
    for name, of in (("last.safetensors", seen), ("best.safetensors", BEST[seen])):
        assert read_checkpoint(run / "checkpoints" / name)["images_seen"] == of, name
    newest = latest_valid_checkpoint(run)
    assert newest
    assert read_checkpoint(newest)["images_seen"] == seen
    assert not list(run.rglob("*.part"))


def go_on(resume: Path, run: Path) -> int:
    checkpoint = read_checkpoint(resume)
    restore_run_dir(str(resume), run, checkpoint)
    return checkpoint["images_seen"]


def same_folder(name: str, folder: Path) -> tuple[Path, Path]:
    run = run_until(150, folder / "run")
    return run / "checkpoints" / name, run


def only_its_other_name_is_left(name: str, folder: Path) -> tuple[Path, Path]:
    resume, run = same_folder(name, folder)
    (run / "checkpoints" / checkpoint_name(read_checkpoint(resume)["images_seen"])).unlink()
    return resume, run


def by_another_path(name: str, folder: Path) -> tuple[Path, Path]:
    resume, run = only_its_other_name_is_left(name, folder)
    (folder / "alias").symlink_to(run)
    return resume, folder / "alias"


def new_folder(name: str, folder: Path) -> tuple[Path, Path]:
    return run_until(150, folder / "source") / "checkpoints" / name, folder / "run"


def folder_that_had_gone_on(name: str, folder: Path) -> tuple[Path, Path]:
    return run_until(100, folder / "source") / "checkpoints" / name, run_until(150, folder / "run")


@pytest.mark.parametrize(
    ("begun", "name"),
    [
        (same_folder, "images_000000150.safetensors"),
        (same_folder, "images_000000050.safetensors"),
        (same_folder, "last.safetensors"),
        (only_its_other_name_is_left, "best.safetensors"),
        (by_another_path, "last.safetensors"),
        (new_folder, "images_000000100.safetensors"),
        (new_folder, "best.safetensors"),
        (folder_that_had_gone_on, "last.safetensors"),
    ],
)
@pytest.mark.parametrize("again", ["the same", "resume=last"])
def test_killed_at_any_change_of_the_disk_it_goes_on_right(
    begun: Callable[[str, Path], tuple[Path, Path]], name: str, again: str, tmp_path: Path
) -> None:
    for operation in count():
        resume, run = begun(name, tmp_path / str(operation))
        try:
            with killed_at(operation):
                seen = go_on(resume, run)
        except Killed:
            newest = resume if again == "the same" else latest_valid_checkpoint(run)
            if newest is None:  # in a folder of its own, nothing was there yet
                assert begun in (new_folder, folder_that_had_gone_on)
                continue
            seen = go_on(newest, run)
            assert_is_as_it_was_at(seen, run)
        else:
            assert_is_as_it_was_at(seen, run)
            assert operation > 0
            return


def test_nothing_judged_yet_the_checkpoint_is_the_best(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / checkpoint_name(50)
    content = {"config": {"model": {}, "data": {}}, "state_dict": {}, "inference": INFERENCE, "images_seen": 50}
    write_atomic(path, to_bytes(content | {"callbacks": {"Checkpoints": {"best": {}}}}))
    link_or_copy(path, tmp_path / "checkpoints" / "best.safetensors")
    go_on(tmp_path / "checkpoints" / "best.safetensors", tmp_path)
    assert read_checkpoint(tmp_path / "checkpoints" / "best.safetensors")["images_seen"] == 50


def test_checkpoint_from_elsewhere_leaves_the_curves_of_its_run(tmp_path: Path) -> None:
    run = run_until(150, tmp_path / "run")
    elsewhere = shutil.copyfile(run / "checkpoints" / checkpoint_name(100), tmp_path / "mine.safetensors")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.png").touch()
    assert_is_as_it_was_at(go_on(elsewhere, run), run)


def test_without_a_checkpoint_nothing_of_an_earlier_attempt_stays(tmp_path: Path) -> None:
    run = run_until(50, tmp_path / "run")
    for path in (run / "checkpoints").glob("*.safetensors"):
        path.unlink()
    restore_run_dir(None, run, {"images_seen": 0})
    assert [path.name for path in run.rglob("*") if path.is_file()] == []


def test_rows_come_back_without_a_line_that_was_cut_short(tmp_path: Path) -> None:
    text = "images_seen,loss\r\n10,1.5\r\n20,\r\n"
    (tmp_path / "metrics.csv").write_text(text + "30,2", newline="")
    restore_rows(tmp_path / "metrics.csv", tmp_path / "copy.csv", images_seen=40)
    assert (tmp_path / "copy.csv").read_bytes().decode() == text
    restore_rows(tmp_path / "metrics.csv", tmp_path / "copy.csv", images_seen=10)
    assert (tmp_path / "copy.csv").read_bytes().decode() == "images_seen,loss\r\n10,1.5\r\n"
    for source in ("metrics.csv", "nothing.csv"):
        restore_rows(tmp_path / source, tmp_path / "copy.csv", images_seen=5)
        assert not (tmp_path / "copy.csv").exists()
