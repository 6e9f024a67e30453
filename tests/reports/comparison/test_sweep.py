"""A sweep runs exactly its jobs, each in a process tree of its own, and says what ended how and which is the best."""

import atexit
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from src.core.errors import RunFailed, UserError
from src.reports.comparison.sweep import SweepReport
from tests.helpers.commands import REPOSITORY, command, tiny

FAILING = ["+callbacks.failing._target_=tests.helpers.probe.FailingRank", "metrics=none", "max_images=32"]


def run_folders(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.rglob("config.yaml"))


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sweep_on_two_processes_goes_on_where_a_process_dies(tmp_path: Path) -> None:
    how = "+callbacks.failing.how=none,kill,raise"
    options = ["--multirun", how, "trainer.devices=2", "logger=wandb", f"hydra.sweep.dir={tmp_path}"]
    result = command("src.train", *tiny("vae"), *FAILING, *options)
    assert result.returncode == 1, result.stderr
    assert run_folders(tmp_path) == ["0", "1", "2"]
    assert [path.parent.name for path in tmp_path.rglob("summary.json")] == ["0"]
    assert (summary_of(tmp_path / "0")["images_seen"], summary_of(tmp_path / "0")["ranks"]) == (32, 2)
    assert len(list((tmp_path / "0" / "wandb").glob("offline-run-*"))) == 1
    # Each error once: the launcher tells of a killed rank, a rank of its own error.
    assert result.stderr.count("rank 1 of 2 was killed by SIGKILL") == 1
    assert result.stderr.count("\nRuntimeError: the disk is on fire") == 1
    assert result.stderr.count("Traceback") == 1
    assert (tmp_path / "2" / "error.txt").read_text() == "RuntimeError: the disk is on fire\n"
    ended = [row["ended"] for row in table_of(tmp_path)]
    assert ended == ["finished", "rank 1 of 2 was killed by SIGKILL", "RuntimeError: the disk is on fire"]
    for job, value in enumerate(["none", "kill", "raise"]):
        assert result.stdout.count(f"job {job}: +callbacks.failing.how={value}\n") == 1
    assert result.stdout.count("3 jobs") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "launcher",
    [
        ["trainer.devices=2"],
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
    ],
    ids=["basic", "joblib", "submitit"],
)
def test_sweep_gives_each_job_a_run_folder(launcher: list[str], tmp_path: Path) -> None:
    options = ["--multirun", "model.beta=0.5,1", *launcher, f"hydra.sweep.dir={tmp_path}"]
    result = command("src.train", *tiny("vae"), *FAILING[1:], *options)
    assert result.returncode == 0, result.stderr
    assert run_folders(tmp_path) == ["0", "1"]
    configs = [yaml.safe_load((tmp_path / job / "config.yaml").read_text()) for job in "01"]
    assert [config["model"]["beta"] for config in configs] == [0.5, 1]
    devices = 2 if "trainer.devices=2" in launcher else 1
    summaries = [summary_of(tmp_path / job) for job in "01"]
    assert [(summary["images_seen"], summary["ranks"]) for summary in summaries] == [(32, devices)] * 2
    # Submitit keeps what its jobs print in files of its own.
    said = result.stdout + "".join(path.read_text() for path in tmp_path.rglob("*_log.out"))
    # A job is trained once, by its processes together, and not by each of them.
    assert said.count("data: 64 drawn cats") == 2
    assert said.count("job 0: model.beta=0.5\n") == 1
    assert result.stdout.count("2 jobs") == 1
    rows = table_of(tmp_path)
    assert [(row["options"], row["ended"]) for row in rows] == [
        ("model.beta=0.5", "finished"),
        ("model.beta=1", "finished"),
    ]
    assert [float(row["val/loss final"]) for row in rows] == [summary["final"]["val/loss"] for summary in summaries]
    assert "model.beta" in (tmp_path / "compare.html").read_text().partition("What differs")[2].partition("</table>")[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_whose_process_is_gone_is_told_by_joblib_too(tmp_path: Path) -> None:
    options = ["--multirun", "+callbacks.failing.how=none,kill", "hydra/launcher=joblib", f"hydra.sweep.dir={tmp_path}"]
    result = command("src.train", *tiny("vae"), *FAILING, *options)
    assert result.returncode == 1, result.stderr
    assert [row["ended"] for row in table_of(tmp_path)] == ["finished", "the process was killed by SIGKILL"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_ends_the_sweep_and_shows_what_there_is(tmp_path: Path) -> None:
    options = ["--multirun", "seed=1,2", "max_images=1e6", f"hydra.sweep.dir={tmp_path}"]
    arguments = [sys.executable, "-m", "src.train", *tiny("vae"), *FAILING[1:2], *options]
    with subprocess.Popen(arguments, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("0/metrics.csv")):
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[0]
    assert process.returncode == 75  # a checkpoint is written; resume=last goes on
    assert "1 jobs" in said
    assert not (tmp_path / "1").exists()
    assert [row["ended"] for row in table_of(tmp_path)] == ["interrupted, or still running"]


class Sweep:
    """Does what Hydra and its launchers do with the jobs of a sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.report, self.num_jobs = folder, SweepReport(), 0
        self.report.on_multirun_start(self.config(["model=vae", "seed=1,2,3"]))
        atexit.unregister(self.report.report)

    def config(self, task: list[str], **more: Any) -> Any:
        return OmegaConf.create({"hydra": {"overrides": {"task": task}, "sweep": {"dir": str(self.folder)}, **more}})

    def attempt(self, error: BaseException | None = None) -> JobReturn:
        folder, job = self.folder / str(self.num_jobs), {"num": self.num_jobs}
        config = self.config(["model=vae", f"seed={self.num_jobs}"], job=job, runtime={"output_dir": str(folder)})
        self.num_jobs += 1
        self.report.on_job_start(config)
        returned = JobReturn(status=JobStatus.FAILED if error else JobStatus.COMPLETED, _return_value=error)
        self.report.on_job_end(config, returned)
        return returned

    def end(self) -> None:
        self.report.on_multirun_end(self.config([]))


def failure(reason: str) -> UserError:
    """Return what the command line makes of a run that failed."""
    error = UserError(reason)
    error.__cause__ = RunFailed(137, reason)
    return error


def test_failures_are_told_apart_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep(tmp_path)
    errors = [None, UserError("no such image"), failure("killed"), ValueError("wrong")]
    # Hydra's launchers and sweepers see no job that failed: they would end with it.
    assert [sweep.attempt(error).return_value for error in errors] == [None] * 4
    with pytest.raises(SystemExit, match="1"):
        sweep.end()
    said = capsys.readouterr()
    assert "job 1: seed=1\n" in said.out
    table = said.out.partition("4 jobs")[2]
    for number, how in enumerate(["finished", "no such image", "killed", "ValueError: wrong"]):
        assert [line for line in table.splitlines() if f" {number} " in line and f" {how} " in line]
    assert said.err.count("error: no such image") == 1
    assert said.err.count("killed") == 0  # its launcher said it
    assert said.err.count("ValueError: wrong") == 1


def test_sweep_that_ends_well_has_a_table_and_no_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = Sweep(tmp_path)
    for _ in range(2):
        earlier.attempt(ValueError("wrong"))
    sweep = Sweep(tmp_path)
    sweep.attempt()
    sweep.end()  # and job 1 of the sweep before is none of this one
    assert "1 jobs" in capsys.readouterr().out


def test_single_run_is_no_sweep(tmp_path: Path) -> None:
    returned = JobReturn(status=JobStatus.FAILED, _return_value=ValueError("wrong"))
    config = SimpleNamespace()
    report = SweepReport()
    report.on_job_start(config)  # type: ignore[arg-type]
    report.on_job_end(config, returned)  # type: ignore[arg-type]
    assert returned.status == JobStatus.FAILED
    assert list(tmp_path.iterdir()) == []
