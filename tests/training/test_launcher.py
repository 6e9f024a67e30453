"""A run's ranks: how many, their environment, and that none outlives the others; short scripts stand in for them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from src.callbacks.stop_signals import stop_signals
from src.core.errors import RunFailed, UserError
from src.training.launcher import count_ranks, rank_environments, run_rank, wait_for

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def keep_signal_handler() -> Any:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def python(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.mark.parametrize(("devices", "count"), [(1, 1), (2, 2), ("2", 2), ([0, 1], 2), ([3], 1), ("auto", 1), (-1, 1)])
def test_each_device_has_a_rank(devices: Any, count: int) -> None:
    assert count_ranks({"devices": devices, "accelerator": "cpu"}) == count


def test_ranks_differ_and_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    first, second = rank_environments(2)
    assert {name for name in first if first[name] != second[name]} == {"RANK", "LOCAL_RANK"}
    assert (second["RANK"], second["WORLD_SIZE"], second["OMP_NUM_THREADS"]) == ("1", "2", "4")
    assert first["MASTER_PORT"].isdecimal()
    assert first["PATH"] == os.environ["PATH"]


def test_threads_that_the_user_chose_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert rank_environments(2)[0]["OMP_NUM_THREADS"] == "3"


def failure(processes: list[subprocess.Popen], folder: Path) -> RunFailed:
    with pytest.raises(RunFailed) as failed:
        wait_for(processes, folder / "error.txt")
    return failed.value


def test_run_succeeds_where_all_ranks_do(tmp_path: Path) -> None:
    wait_for([python("pass"), python("pass")], tmp_path / "error.txt")


@pytest.mark.parametrize("failing", [0, 1])
def test_failing_rank_ends_the_others_and_its_status_comes_back(failing: int, tmp_path: Path) -> None:
    codes = ["import time; time.sleep(60)"] * 2
    codes[failing] = "raise SystemExit(7)"
    processes = [python(code) for code in codes]
    started_at = time.monotonic()
    failed = failure(processes, tmp_path)
    assert (failed.code, failed.reason, failed.requested) == (7, "exit status 7", False)
    assert time.monotonic() - started_at < 20
    assert processes[1 - failing].returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("killed", "count", "reason"),
    [
        (0, 2, "rank 0 of 2 was killed by SIGKILL"),
        (1, 2, "rank 1 of 2 was killed by SIGKILL"),
        (0, 1, "the process was killed by SIGKILL"),
    ],
)
def test_rank_that_a_signal_killed_counts_as_failed(
    killed: int, count: int, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = ["import time; time.sleep(60)"] * count
    codes[killed] = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    failed = failure([python(code) for code in codes], tmp_path)
    assert (failed.code, failed.reason, failed.requested) == (128 + signal.SIGKILL, reason, False)
    assert (tmp_path / "error.txt").read_text() == f"{reason}\n"
    assert capsys.readouterr().err == f"error: {reason}\n"


def test_reason_is_what_the_failing_rank_has_written(tmp_path: Path) -> None:
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('no such photo\\n'); sys.exit(2)"
    rank = subprocess.Popen([sys.executable, "-c", code, tmp_path / "error.txt"])
    assert failure([rank], tmp_path).reason == "no such photo"


def test_signal_is_passed_on_and_is_the_reason(tmp_path: Path) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(75)); time.sleep(60)"
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
    failed = failure([python(code), python(code)], tmp_path)
    assert (failed.code, failed.reason, failed.requested) == (75, "ended by SIGINT", True)


def test_only_the_first_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors: list[Exception] = [UserError("no such photo"), ValueError("its consequence")]

    def fit(config: dict[str, Any]) -> None:
        raise errors.pop(0)

    monkeypatch.setattr("src.training.fit.fit", fit)
    for rank, code in ((1, 2), (0, 1)):
        with pytest.raises(SystemExit) as ended:
            run_rank("src.training.fit.fit", {"run_dir": str(tmp_path)}, rank, 2)
        assert ended.value.code == code
    assert capsys.readouterr().err == "error: no such photo\n"
    assert (tmp_path / "error.txt").read_text() == "no such photo\n"


def test_termination_of_the_launcher_ends_the_ranks() -> None:
    code = """if True:
        import pathlib, subprocess, sys
        from src.training.launcher import wait_for
        ranks = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
        print(*[rank.pid for rank in ranks], flush=True)
        wait_for(ranks, pathlib.Path("no error"))"""
    launcher = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    ranks = [int(pid) for pid in launcher.stdout.readline().split()]
    time.sleep(1)
    launcher.terminate()
    assert launcher.wait(20) == 128 + signal.SIGTERM
    for rank in ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(rank, 0)


def test_hangup_is_left_alone_where_it_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stop_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert stop_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)
