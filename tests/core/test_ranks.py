"""Runs whose processes torchrun or SLURM started: who is who, one folder for all, and real ones on one machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from src.config.cli import run
from src.core.errors import UserError
from src.core.ranks import RankInfo, agree_on_run_dir, for_life, get_rank_info
from src.train import train
from src.training.launcher import launch, rank_environments
from tests.helpers.commands import REPOSITORY, command, config_of, tiny

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [*VARIABLES, *(name for name in os.environ if name.startswith("SLURM_"))]:
        monkeypatch.delenv(name, raising=False)
    yield
    for_life.close()  # folders that a process of a real run owns until it ends


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


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", free_port())


@pytest.mark.usefixtures("address")
def test_all_processes_take_the_first_ones_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        folders = threads.map(
            lambda rank: agree_on_run_dir(RankInfo(rank, 3, "torchrun"), ["seed=1"], str(tmp_path / str(rank)), None),
            range(3),
        )
    assert list(folders) == [str(tmp_path / "0")] * 3


@pytest.mark.usefixtures("address")
def test_processes_of_different_options_are_refused(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        first, second = (
            threads.submit(agree_on_run_dir, RankInfo(rank, 2, "torchrun"), [f"seed={rank}"], str(tmp_path), None)
            for rank in range(2)
        )
        assert first.result() == str(tmp_path)
        with pytest.raises(UserError, match="rank 1 was given seed=1, rank 0 seed=0"):
            second.result()


def test_number_of_processes_must_be_what_the_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="are 2 processes, but torchrun started 4"):
        launch("src.training.fit.fit", config_of("trainer.devices=2", f"run_dir={tmp_path}"))


def test_ranks_that_go_on_need_a_run_dir(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["train", "resume=last"])
    with pytest.raises(SystemExit):
        run(train)
    assert capsys.readouterr().err == "error: resume=last goes on in the folder of a run; add run_dir=RUN\n"


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


def run_together(folder: Path, commands: list[list[str]], environments: list[dict[str, str]]) -> dict[str, Any]:
    """Starts all of them in a folder; the summary of the one run they make."""
    processes = [
        subprocess.Popen(
            [*line, *tiny("vae"), "metrics=none", "max_images=32"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        )
        for line, environment in zip(commands, environments, strict=True)
    ]
    assert [process.wait(800) for process in processes] == [0, 0]
    (summary,) = folder.rglob("summary.json")
    assert len(list(folder.rglob("images"))) == 1
    return json.loads(summary.read_text())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_torchrun_nodes_make_one_run(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    where = ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    job = ["-m", "src.train", "trainer.num_nodes=2"]
    commands = [[*torchrun, f"--node-rank={rank}", *where, *job] for rank in range(2)]
    summary = run_together(tmp_path, commands, [{}, {}])
    assert [summary["ranks"], summary["images_seen"]] == [2, 32]


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
    summary = run_together(tmp_path, [command, command], environments)
    assert [summary["ranks"], summary["images_seen"]] == [2, 32]
