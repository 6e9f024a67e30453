"""The owner of a run folder, paths as checkpoints, and configs that can't be read."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from src.core import run_folder
from src.core.errors import UserError
from src.core.run_folder import (
    checkpoint_name,
    full_disk_explained,
    held,
    numbered_checkpoints,
    owned,
    read_config,
    read_rows,
    resolve_checkpoint,
    run_dir_of,
)
from tests.helpers.commands import REPOSITORY

OWN = """
import os, subprocess, sys, time
from pathlib import Path
from src.core.run_folder import held, owned
with owned(Path(sys.argv[1]), None):
    rank = subprocess.Popen(["sleep", "60"], pass_fds=list(held))
    print(rank.pid, flush=True)
    time.sleep(60)
"""


def start_owner(folder: Path) -> tuple[subprocess.Popen, int]:
    """A process that owns a run folder, and its rank's process id."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWN, str(folder)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    return owner, int(owner.stdout.readline())


def test_second_owner_is_told_who_the_first_one_is(tmp_path: Path) -> None:
    owner, rank = start_owner(tmp_path)
    try:
        sentence = f"belongs to a run that goes on: process {owner.pid} on {socket.gethostname()}; wait for it, stop it"
        for resume in (None, "best.safetensors"):
            with pytest.raises(UserError, match=re.escape(sentence)), owned(tmp_path, resume):
                pass
        assert not held
        owner.kill()
        owner.wait()
        with pytest.raises(UserError, match=f"process {owner.pid} on"), owned(tmp_path, None):
            pass  # a rank outlives it
    finally:
        owner.kill()
        os.kill(rank, signal.SIGKILL)
    time.sleep(0.2)
    with owned(tmp_path, None):
        assert (tmp_path / "run.lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}"
        assert len(held) == 1
    assert not held


def test_ranks_of_torchrun_wait_only_for_a_run_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that stops by itself, the others would read the checkpoints meanwhile."""
    monkeypatch.setattr(run_folder, "KILLED_WITHIN_S", 1.0)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    owner, rank = start_owner(tmp_path)
    started_at = time.monotonic()
    try:
        with pytest.raises(UserError, match="belongs to a run that goes on"), owned(tmp_path, "last"):
            pass
        assert 1 <= time.monotonic() - started_at < 5
        owner.kill()
        threading.Timer(0.3, os.kill, (rank, signal.SIGKILL)).start()
        with owned(tmp_path, "last"):
            assert len(held) == 1
    finally:
        owner.kill()
        os.kill(rank, signal.SIGKILL)


def test_other_ranks_than_the_first_look_at_the_folder_but_take_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    (tmp_path / "config.yaml").touch()  # the first rank has begun
    with owned(tmp_path, None):
        assert not held
    (tmp_path / "metrics.csv").touch()
    with pytest.raises(UserError, match=r"holds a run; add resume=last"), owned(tmp_path, None):
        pass


def test_resumed_run_waits_for_one_that_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, rank = start_owner(tmp_path)
    os.kill(rank, signal.SIGKILL)
    threading.Timer(1, owner.kill).start()
    started_at = time.monotonic()
    with owned(tmp_path, "last"):
        assert 0.5 < time.monotonic() - started_at < 20
    printed = capsys.readouterr().out
    assert (
        printed == f"{tmp_path} belongs to process {owner.pid} on {socket.gethostname()}; waiting 130 s for it to end\n"
    )
    monkeypatch.setattr(run_folder, "STOPS_WITHIN_S", 0.5)
    owner, rank = start_owner(tmp_path)
    try:
        with pytest.raises(UserError, match="belongs to a run that goes on"), owned(tmp_path, "last"):
            pass
    finally:
        owner.kill()
        os.kill(rank, signal.SIGKILL)


@pytest.mark.parametrize("system", ["no fcntl", "file system"])
def test_without_locks_a_sentence_says_so(
    system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if system == "no fcntl":
        monkeypatch.setattr(run_folder, "fcntl", None)
    else:
        monkeypatch.setattr("fcntl.flock", fail)
    with owned(tmp_path, None):
        assert not held
    assert capsys.readouterr().out == f"{tmp_path} can't be locked here: take care that no other run uses it\n"


@pytest.mark.parametrize("name", ["checkpoints/last.safetensors", "images/a.png", "config.yaml", "metrics.csv"])
def test_anything_of_a_run_makes_a_run(name: str, tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    with owned(tmp_path, None):
        pass
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"holds a run; add resume=last"), owned(tmp_path, None):
        pass
    with owned(tmp_path, "last"):
        pass


@pytest.mark.parametrize("name", ["checkpoints", "images", "metrics.csv", "error.txt", "run.lock", "images/a.png", "x"])
def test_folder_with_links_is_refused_and_what_they_lead_to_stays(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "images_000000001.safetensors").touch()
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(mine)
    with pytest.raises(UserError, match=f"{link} is a link"), owned(tmp_path / "run", "last"):
        pass
    assert [path.name for path in mine.iterdir()] == ["images_000000001.safetensors"]
    (tmp_path / "other").symlink_to(mine)
    with owned(tmp_path / "other", "last"):  # the folder itself is what the user typed
        pass


@pytest.mark.parametrize(("given", "where"), [(None, "there is no checkpoint yet"), ("a.safetensors", "is a.safeten")])
def test_full_disk_is_told_with_the_last_checkpoint(given: str | None, where: str, run: Path, tmp_path: Path) -> None:
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sentence = f"can't write {tmp_path}: No space left.*{where}"
    with pytest.raises(UserError, match=sentence), full_disk_explained(tmp_path, given):
        write()
    with pytest.raises(UserError, match=r"is .*images_000000100\.safetensors"), full_disk_explained(run):
        write()
    with pytest.raises(PermissionError), full_disk_explained(run):
        raise PermissionError


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "images_seen,a\nx,2\n", "images_seen\n" + "9" * 200_000 + "\n"])
def test_rows_of_something_else_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match="rows are no curves of a run"):
        read_rows(tmp_path / "metrics.csv")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in (checkpoint_name(100), checkpoint_name(20), "last.safetensors", "best.safetensors", "images_x.part"):
        (folder / name).touch()
    return tmp_path / "run"


def test_numbered_checkpoints_come_oldest_first(run: Path) -> None:
    assert list(numbered_checkpoints(run / "checkpoints")) == [20, 100]


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


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(2000)) + "[" * 90_000


@pytest.mark.parametrize("text", [None, "", "a: [", "- 1", "\x00", "!!python/object/apply:os.getcwd []", BOMB])
def test_config_that_can_not_be_read_is_empty(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    assert read_config(tmp_path) == {}
    assert read_config(None) == {}
