"""A sweep runs exactly its jobs, each in a process tree of its own, and says what ended how."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig

from src.config.sweep import sweep
from src.core.errors import RunFailed, UserError
from tests.helpers.commands import command, tiny

FAILING = ["+callbacks.failing._target_=tests.helpers.probe.FailingRank", "metrics=none", "max_images=32"]


def run_folders(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.rglob("config.yaml") if path.parent.name != ".hydra")


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


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
    table = " ".join(result.stdout.partition("3 jobs")[2].split())
    assert "finished" in table
    assert "SIGKILL" in table


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("devices", [1, 2])
def test_sweep_gives_each_job_a_run_folder(devices: int, tmp_path: Path) -> None:
    options = ["--multirun", "model.beta=0.5,1,4", f"trainer.devices={devices}", f"hydra.sweep.dir={tmp_path}"]
    result = command("src.train", *tiny("vae"), *FAILING[1:], *options)
    assert result.returncode == 0, result.stderr
    assert run_folders(tmp_path) == ["0", "1", "2"]
    configs = [yaml.safe_load((tmp_path / job / "config.yaml").read_text()) for job in "012"]
    assert [config["model"]["beta"] for config in configs] == [0.5, 1, 4]
    summaries = [summary_of(tmp_path / job) for job in "012"]
    assert [(summary["images_seen"], summary["ranks"]) for summary in summaries] == [(32, devices)] * 3
    # A job is trained once, by its processes together, and not by each of them.
    assert result.stdout.count("data: 64 drawn cats") == 3


@pytest.fixture(autouse=True)
def job_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand for what Hydra knows of a job."""
    job = SimpleNamespace(overrides=SimpleNamespace(task=[]), runtime=SimpleNamespace(output_dir="."))
    monkeypatch.setattr(HydraConfig, "get", lambda: job)


def raising(error: BaseException) -> Any:
    def job() -> None:
        raise error

    return job


def test_failures_are_told_apart_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with sweep() as attempt:
        attempt(lambda: None)
    with pytest.raises(SystemExit, match="1"), sweep() as attempt:  # noqa: PT012
        attempt(lambda: None)
        attempt(raising(UserError("no such image")))
        attempt(raising(RunFailed(137, "killed")))
        attempt(raising(ValueError("wrong")))
    alone, table = capsys.readouterr().out.split("4 jobs")
    assert "1 jobs" in alone
    for number, how in enumerate(["finished", "no such image", "killed", "ValueError: wrong"]):
        assert re.search(rf"\b{number} .* {how} ", table)


@pytest.mark.parametrize("wish", [KeyboardInterrupt(), RunFailed(75, "ended by SIGINT", requested=True)], ids=str)
def test_wish_to_end_ends_the_sweep(wish: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(wish)), sweep() as attempt:
        attempt(raising(wish))
    assert "1 jobs" in capsys.readouterr().out
