"""Real runs under nohup, in a terminal that is closed, and with a launcher that is killed as it starts."""

import fcntl
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest

from src.core.errors import STOPPED
from src.models.checkpoint.loading import read_checkpoint
from tests.helpers.commands import REPOSITORY, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def command(run: Path, devices: int, *options: str) -> list[str]:
    vae = tiny("vae", "metrics=none", f"trainer.devices={devices}", f"run_dir={run}", *options)
    return [sys.executable, "-m", "src.train", *vae]


def wait_until(happens: object, within_s: float = 280) -> None:
    deadline = time.monotonic() + within_s
    while not happens():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_of(run: Path) -> list[int]:
    """The process ids of a run's launcher and ranks."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            found += [int(path.name)] if str(run).encode() in (path / "cmdline").read_bytes() else []
    return found


@pytest.mark.parametrize("devices", [1, 2])
def test_under_nohup_a_hangup_is_ignored_by_all(devices: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    started = subprocess.Popen(
        ["nohup", *command(run, devices, "max_images=512", "callbacks.evaluation.every_images=512")],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
    )
    wait_until((run / "metrics.csv").exists)
    for process in processes_of(run):
        os.kill(process, signal.SIGHUP)
    assert started.wait(300) == 0
    assert read_checkpoint(run / "checkpoints" / "last.safetensors")["images_seen"] == 512


@pytest.mark.parametrize("devices", [1, 2])
def test_closed_terminal_leaves_a_checkpoint_and_the_status_to_go_on(devices: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    terminal, inner = pty.openpty()
    started = subprocess.Popen(
        command(run, devices, "max_images=1e7"),
        cwd=REPOSITORY,
        start_new_session=True,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(inner)
    os.set_blocking(terminal, False)

    def read_on() -> bool:
        with suppress(BlockingIOError):
            os.read(terminal, 1 << 16)  # what nobody reads would stop the run
        return (run / "metrics.csv").exists()

    wait_until(read_on)
    os.close(terminal)
    assert started.wait(140) == STOPPED
    assert processes_of(run) == []
    assert read_checkpoint(run / "checkpoints" / "last.safetensors")["images_seen"] > 0


def test_no_rank_outlives_a_launcher_killed_at_ten_moments_of_its_start(tmp_path: Path) -> None:
    """From before the ranks exist until they train."""
    for number in range(10):
        run = tmp_path / str(number)
        launcher = subprocess.Popen(command(run, 2, "max_images=1e7"), cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        wait_until(lambda: len(processes_of(run)) == 3)  # noqa: B023
        time.sleep((0, 0.01, 0.05, 0.1, 0.3, 1, 2, 4, 6, 8)[number])
        launcher.kill()
        launcher.wait()
        killed_at = time.monotonic()
        wait_until(lambda: not processes_of(run))  # noqa: B023
        print(f"moment {number}: the ranks were gone after {time.monotonic() - killed_at:.1f} s")


@pytest.mark.parametrize(("devices", "options"), [(1, ["data.num_workers=2"]), (1, []), (2, [])])
def test_ctrl_c_that_ends_the_workers_and_tee_too_leaves_a_checkpoint(
    devices: int, options: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    line = shlex.join(command(run, devices, "max_images=1e7", *options))
    started = subprocess.Popen(
        ["bash", "-c", f"set -o pipefail; {line} 2>&1 | tee {tmp_path}/log"], cwd=REPOSITORY, start_new_session=True
    )
    wait_until((run / "metrics.csv").exists)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal sends it to all that it runs
    wait_until(lambda: not processes_of(run))
    assert read_checkpoint(run / "checkpoints" / "last.safetensors")["images_seen"] > 0
    assert not (run / "error.txt").exists()
    assert started.wait(20)
    assert "Traceback" not in (tmp_path / "log").read_text()
