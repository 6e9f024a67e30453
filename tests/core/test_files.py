"""Locks between processes, and files that are written as a whole or not at all."""

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock, Timeout

from src.core.errors import UserError
from src.core.files import _temporary_cache_dir, locked, user_cache_dir, write_atomic

FORKS = multiprocessing.get_context("forkserver")
HOLD = """
import os, sys, time
from pathlib import Path
from src.core.files import locked
with locked(Path(sys.argv[1])):
    if len(sys.argv) == 2 or os.fork() == 0:  # a child says so once it has let go of the lock
        print("locked", flush=True)
    time.sleep(60)
"""


def count_up(folder: Path, times: int) -> None:
    """Add 1 to a number in a file, which loses some where two processes do it at once."""
    for _ in range(times):
        with locked(folder / "lock"):
            number = int((folder / "number").read_text())
            time.sleep(0.001)
            (folder / "number").write_text(str(number + 1))


def test_one_process_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    processes = [FORKS.Process(target=count_up, args=(tmp_path, 40)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (tmp_path / "number").read_text() == "160"
    assert (tmp_path / "lock").exists()  # a lock file that is removed splits those who wait for it from those who come


@pytest.mark.parametrize("arguments", [[], ["with a child"]])
def test_a_lock_ends_with_its_process(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(Timeout):
            FileLock(tmp_path / "lock").acquire(timeout=0)
        process.kill()
        process.wait()
        with locked(tmp_path / "lock"):
            pass
        if arguments:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_lock_file_may_be_locked_by_other_users(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        with locked(tmp_path / "lock"):
            assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o666
    finally:
        os.umask(umask)


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "file", "old")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            write_atomic(tmp_path / "file", "new", sync=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.fixture
def _no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A user without HOME, XDG_CACHE_HOME and an entry in the list of users, as containers have."""

    def unknown(user: int) -> NoReturn:
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    _temporary_cache_dir.cache_clear()
    yield
    _temporary_cache_dir.cache_clear()


@pytest.mark.usefixtures("_no_home")
def test_without_a_home_the_cache_is_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = user_cache_dir()
    assert user_cache_dir() == folder == tmp_path / f"cat-faces-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    said = capsys.readouterr().err
    assert said.count("no home folder") == 1
    assert f"{folder}; or set XDG_CACHE_HOME=FOLDER" in said
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "given"))
    assert user_cache_dir() == tmp_path / "given" / "cat-faces"


@pytest.mark.usefixtures("_no_home")
def test_a_temporary_folder_of_somebody_else_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 12345)
    (tmp_path / "cat-faces-12345").mkdir()
    with pytest.raises(UserError, match="belongs to somebody else"):
        user_cache_dir()
