"""Runs whose processes torchrun or SLURM started: who is who, one folder for all, and real ones on one machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.callbacks.periodic import RunLength
from src.config.cli import run
from src.core.errors import UserError
from src.core.ranks import RankInfo, get_rank_info
from src.train import train
from src.training.launcher import launch, rank_environments
from tests.helpers.commands import REPOSITORY, command, config_of, tiny

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*VARIABLES, *(name for name in os.environ if name.startswith("SLURM_"))]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ("", None),
        ("RANK=3 WORLD_SIZE=4 LOCAL_RANK=1", RankInfo(3, 4, "torchrun")),
        # Set for a container as a whole.
        ("RANK=0 WORLD_SIZE=1", None),
        ("SLURM_PROCID=3 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=4 SLURM_JOB_NAME=cats", RankInfo(3, 4, "SLURM")),
        # A batch script without srun.
        ("SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_JOB_ID=7 SLURM_JOB_NAME=cats", None),
        # `srun python ...` as one task, and shells: salloc's own step, `srun --pty bash`.
        ("SLURM_PROCID=0 SLURM_STEP_ID=1 SLURM_STEP_NUM_TASKS=1", None),
        ("SLURM_PROCID=0 SLURM_STEP_ID=4294967290 SLURM_STEP_NUM_TASKS=2", None),
        ("SLURM_PROCID=0 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_JOB_NAME=bash", None),
        # torchrun inside of srun.
        ("RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=4", RankInfo(1, 2, "torchrun")),
    ],
)
def test_processes_know_who_started_them(
    environment: str, expected: RankInfo | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in environment.split():
        monkeypatch.setenv(*variable.split("="))
    assert get_rank_info() == expected


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ("LOCAL_RANK=1", "LOCAL_RANK is set, but not RANK and WORLD_SIZE too"),
        ("RANK=abc", "RANK=abc is no number"),
        ("RANK=0 WORLD_SIZE=-2 LOCAL_RANK=0", "WORLD_SIZE=-2 is no number"),
        ("SLURM_STEP_NUM_TASKS=many", "SLURM_STEP_NUM_TASKS=many is no number"),
    ],
)
def test_variables_that_name_no_rank_are_refused(
    environment: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in environment.split():
        monkeypatch.setenv(*variable.split("="))
    with pytest.raises(UserError, match=sentence):
        get_rank_info()


def test_batch_that_ranks_can_not_share_is_refused_before_they_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.batch_size=16 can't be shared by 3 ranks; give a multiple of 3"):
        launch("src.training.fit.fit", config_of("trainer.devices=3", "data.batch_size=16", f"run_dir={tmp_path}"))


def free_port() -> str:
    return rank_environments(1)[0]["MASTER_PORT"]


def test_number_of_processes_must_be_what_the_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="are 2 processes, but torchrun started 4"):
        launch("src.training.fit.fit", config_of("trainer.devices=2", f"run_dir={tmp_path}"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "the ranks that torchrun started need one folder; add run_dir=..., the same for all"),
        (["resume=last"], "resume=last goes on in the folder of a run; add run_dir=RUN"),
    ],
)
def test_ranks_need_a_run_dir(
    options: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["train", *options])
    with pytest.raises(SystemExit):
        run(train)
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_ranks_that_read_different_checkpoints_are_refused() -> None:
    first: Any = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda images_seen: 64))
    with pytest.raises(UserError, match="the ranks have read different checkpoints"):
        RunLength(128).on_train_start(first, SimpleNamespace(images_seen=32))


def test_ranks_refuse_a_folder_that_holds_a_run_however_resume_is_spelled(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    checkpoint = run_dir / "checkpoints" / "images_000000032.safetensors"
    checkpoint.write_text("somebody's")
    address: Any = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    options = [*tiny("vae"), f"run_dir={run_dir}", "resume=null"]
    result = command("src.train", *options, RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", **address)
    assert (result.returncode, checkpoint.read_text()) == (2, "somebody's")
    assert "holds a run; add resume=last to go on with it" in result.stderr


def run_together(run_dir: Path, commands: list[list[str]], environments: list[dict[str, str]], *options: str) -> int:
    """Start all of them, which make one run; return the largest of their exit statuses."""
    processes = [
        subprocess.Popen(
            [*line, *tiny("vae"), "metrics=none", f"run_dir={run_dir}", *options],
            cwd=run_dir.parent,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        )
        for line, environment in zip(commands, environments, strict=True)
    ]
    return max(process.wait(800) for process in processes)


def length_of(run_dir: Path) -> list[int]:
    """Return the number of a run's ranks and of the images they have seen."""
    summary = json.loads((run_dir / "summary.json").read_text())
    return [summary["ranks"], summary["images_seen"]]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_torchrun_nodes_make_one_run_which_they_resume_and_never_overwrite(tmp_path: Path) -> None:
    def start(*options: str) -> int:
        where = ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *where]
        job = ["-m", "src.train", "trainer.num_nodes=2"]
        commands = [[*torchrun, f"--node-rank={rank}", *job] for rank in range(2)]
        return run_together(tmp_path / "run", commands, [{}, {}], *options)

    assert start("max_images=32") == 0
    assert length_of(tmp_path / "run") == [2, 32]
    assert start("max_images=64", "resume=last") == 0
    assert length_of(tmp_path / "run") == [2, 64]
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != "run.lock"]
    files = {path: path.read_bytes() for path in written}
    assert start("max_images=32") > 0
    assert files == {path: path.read_bytes() for path in written}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_tasks_of_srun_make_one_run(tmp_path: Path) -> None:
    of_the_job = {"SLURM_JOB_ID": "1234", "SLURM_JOB_NAME": "cats", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    of_the_step = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2"}
    environments = [
        {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        | of_the_job
        | of_the_step
        for port in [free_port()]
        for rank in "01"
    ]
    command = [sys.executable, "-m", "src.train", "trainer.devices=2"]
    assert run_together(tmp_path / "run", [command, command], environments, "max_images=32") == 0
    assert length_of(tmp_path / "run") == [2, 32]
