"""`python -m src.search` as a user has it: real runs, real kills, a real PostgreSQL, submitit's real local executor."""

import csv
import getpass
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from src.config.cli import composed
from src.core.run_folder import read_rows
from src.tuning.study import PRUNED_AT, Study
from tests.helpers.commands import command, succeeded
from tests.helpers.killed_runs import finish, kill, wait_for_file
from tests.helpers.studies import HALVING, SPACE, TINY, begin, search_file, start_worker, times_told

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def rows_of(study: Study, number: int) -> list[int]:
    return [int(row["images_seen"]) for row in read_rows(study.run_dir(number, 0) / "metrics.csv")[1]]


def test_two_workers_search_prune_and_report(tmp_path: Path) -> None:
    search = search_file(tmp_path / "tiny.yaml", pruner=HALVING)
    given = [f"search={search}", f"study={tmp_path}/study", "data.batch_size=16"]
    shown = succeeded("src.search", *given, "trials=6", "workers=2")
    assert "6 of 6 trials" in shown
    study = Study(tmp_path / "study")
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert len(pruned) + sum(trial.state == TrialState.COMPLETE for trial in study.trials) == 6
    for trial in study.trials:
        steps = [*trial.intermediate_values]
        assert steps == rows_of(study, trial.number) == [64, 128, 192, 256][: len(steps)]
        assert any(study.run_dir(trial.number, 0).glob("checkpoints/*.safetensors"))
    assert all(trial.user_attrs[PRUNED_AT] == max(trial.intermediate_values) < 256 for trial in pruned)
    assert composed("train", [f"experiment={tmp_path}/study/best.yaml"])["data"]["batch_size"] == 16
    before = (tmp_path / "study" / "study.html").read_bytes()
    succeeded("src.search", f"study={tmp_path}/study", "report=true")
    assert len((tmp_path / "study" / "study.html").read_bytes()) == pytest.approx(len(before), rel=0.01)
    refused = command("src.search", f"study={tmp_path}/study", "data.batch_size=8")
    assert (refused.returncode, "keeps its options" in refused.stderr) == (2, True)


def test_a_killed_workers_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    study = begin(tmp_path)
    worker = start_worker(tmp_path, 1)
    while not any(study.run_dir(0, 0).glob("checkpoints/*.safetensors")):
        time.sleep(0.05)
        assert worker.is_alive()
    worker.kill()
    assert finish([worker]) == [-9]
    assert study.trials[0].state == TrialState.RUNNING
    assert finish([start_worker(tmp_path, 1)], timeout=200) == [0]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]
    assert "checkpoints/images_" in (tmp_path / "output.txt").read_text().split("resume=last: ")[-1]
    assert rows_of(study, 0) == [*study.trials[0].intermediate_values] == [64, 128, 192, 256]


def kill_at_random(folder: Path, kills: int, trials: int, is_light: bool) -> Study:
    """Kill one of two workers so many times, soon after random changes of the journal, and let them finish."""
    chance, study, journal = random.Random(0), Study(folder), folder / "journal.log"
    workers = [start_worker(folder, trials, is_light) for _ in range(2)]
    for _ in range(kills):
        aim = journal.stat().st_size + chance.randrange(1, 900)
        while journal.stat().st_size < aim and any(worker.is_alive() for worker in workers):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        index = chance.randrange(2)
        kill([workers[index]])
        # More trials, so that none of the kills comes when all is done.
        trials += 1
        workers[index] = start_worker(folder, trials, is_light)
    assert finish(workers, timeout=900)[0] is not None
    assert finish([start_worker(folder, trials, is_light)], timeout=900) == [0]
    assert len(study.trials) == trials
    assert set(times_told(study).values()) == {1}
    return study


def test_after_twenty_random_kills_every_trial_is_told_once(tmp_path: Path) -> None:
    begin(tmp_path, options=[*TINY, "callbacks.evaluation.num_images=8"])
    study = kill_at_random(tmp_path, kills=20, trials=4, is_light=True)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    for trial in study.trials:
        assert (study.run_dir(trial.number, 0) / "steps").read_text().split() == [*"01234567"]


def test_after_random_kills_of_real_runs_every_trial_is_told_once(tmp_path: Path) -> None:
    begin(tmp_path, pruner=HALVING)
    study = kill_at_random(tmp_path, kills=6, trials=2, is_light=False)
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in study.trials:
        end = 256 if trial.state == TrialState.COMPLETE else trial.user_attrs[PRUNED_AT]
        rows = rows_of(study, trial.number)
        assert rows == [*range(64, rows[-1] + 1, 64)]
        assert rows[-1] <= end == max(trial.intermediate_values)


def test_a_worker_waits_for_the_run_that_outlives_its_worker(tmp_path: Path) -> None:
    study = begin(tmp_path, options=[*TINY, "max_images=10_000_000"])
    worker = start_worker(tmp_path, 1)
    wait_for_run(study.run_dir(0, 0))
    outliving = psutil.Process(worker.pid).children(recursive=True)
    assert outliving
    worker.kill()
    finish([worker])
    try:
        # The run goes on; meanwhile nobody else trains in its folder.
        second = start_worker(tmp_path, 1)
        time.sleep(40)
        second.terminate()
        assert finish([second])[0] not in (0, 2)
        rows = rows_of(study, 0)
        assert rows == sorted(set(rows))
        assert study.trials[0].state == TrialState.RUNNING
    finally:
        for process in outliving:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def wait_for_run(run_dir: Path) -> None:
    deadline = time.monotonic() + 600  # two imports on a busy machine
    while not (run_dir / "metrics.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_submitits_local_executor_runs_two_workers(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    search = search_file(tmp_path / "tiny.yaml")
    study = tmp_path / "study"
    shown = succeeded("src.search", f"search={search}", f"study={study}", "trials=4", "workers=2", "cluster=local")
    assert "4 of 4 trials, 4 complete" in shown or "4 complete" in (study / "study.html").read_text()
    assert [trial.state for trial in Study(study).trials] == [TrialState.COMPLETE] * 4
    outputs = [path.read_text() for path in (study / "submitit").glob("*_log.out")]
    assert len(outputs) == 2
    assert sum(text.count("run folder: ") for text in outputs) == 4


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL that listens on a socket of its own only."""
    pytest.importorskip("psycopg")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    if os.getuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("PostgreSQL does not run as root, and there is no setpriv")
    # It refuses root, and its socket wants a short path that another user reaches.
    folder = Path(f"/tmp/pg{os.getpid()}")
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    alone = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    user = "nobody" if alone else getpass.getuser()

    def run(program: str, *arguments: str) -> None:
        subprocess.run([*alone, str(folders[-1] / program), *arguments], check=True, cwd=folder, capture_output=True)

    try:
        run("initdb", "-D", f"{folder}/data", "-U", user, "--auth=trust", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-D", f"{folder}/data", "-l", f"{folder}/log", "-o", options, "-w", "start")
        yield f"postgresql+psycopg://{user}@/postgres?host={folder}"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_two_workers_share_a_study_in_postgresql(tmp_path: Path, postgres: str) -> None:
    search = search_file(tmp_path / "tiny.yaml", pruner=HALVING)
    study = tmp_path / "study"
    given = [f"search={search}", f"study={study}", "trials=4", "workers=2", f"storage='{postgres}'"]
    succeeded("src.search", *given)
    opened = Study(study)
    assert len(opened.trials) == 4
    assert {trial.state for trial in opened.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert not (study / "journal.log").exists()
    rows = list(csv.DictReader((study / "trials.csv").open()))
    assert [int(row["number"]) for row in rows] == [0, 1, 2, 3]


def test_a_run_that_is_not_finite_fails_with_its_reason(tmp_path: Path) -> None:
    space = {"model.generator_optimizer.lr": [1e30], **{key: SPACE[key] for key in ("model/adversarial_loss",)}}
    study = begin(tmp_path, space=space)
    assert finish([start_worker(tmp_path, 2)], timeout=200) == [0]
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    assert all("not finite" in trial.user_attrs["failure"] for trial in study.trials)


def test_ctrl_c_stops_all_workers_and_the_same_command_goes_on(tmp_path: Path) -> None:
    search = search_file(tmp_path / "tiny.yaml")
    arguments = [f"search={search}", f"study={tmp_path}/study", "trials=3", "workers=2"]
    process = subprocess.Popen([sys.executable, "-m", "src.search", *arguments], text=True, stdout=subprocess.PIPE)
    wait_for_run(tmp_path / "study" / "00001")
    process.terminate()
    process.communicate(timeout=200)
    assert process.returncode == 128 + 15
    assert "3 of 3 trials, 3 complete" in succeeded("src.search", *arguments)
    wait_for_file(tmp_path / "study" / "best.yaml")
