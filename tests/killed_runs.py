"""Runs in processes of their own, to be killed: a fork server has imported everything once, so each costs little."""

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from src.launch import free_port
from tests.commands import TINY_NETWORKS, config_of

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.killed_runs", "src.fit", "src.judge", "src.resume", "tests.tiny"])


def config_of_a_run(model: str, folder: Path, *overrides: str) -> dict[str, Any]:
    """24 batches; curves, evaluations, grids and checkpoints each at an interval of their own."""
    return config_of(
        f"model={model}",
        *TINY_NETWORKS[model],
        "data.image_size=32",
        "data.num_images=64",
        "data.batch_size=16",
        "max_images=384",
        "metrics=none",
        "trainer=cpu",
        "checkpoint.every_images=48",
        "callbacks.training_scalars.every_images=80",
        "callbacks.evaluation.every_images=112",
        "callbacks.picture_grids.num_images=8",
        f"run_dir={folder}",
        *overrides,
    )


def go_on(config: dict[str, Any], environment: dict[str, str]) -> None:
    """What src.train does with resume=last, its words in a file of the run's folder."""
    os.environ.update(environment)
    folder = Path(config["run_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from src.fit import fit
    from src.resume import newest_sound

    newest = newest_sound(folder)
    fit(config | {"resume": str(newest) if newest else None})


def start(config: dict[str, Any], processes: int = 1) -> list[BaseProcess]:
    """The processes of a run."""
    ranks: list[dict[str, str]] = [{}]
    if processes > 1:
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(processes),
        }
        ranks = [shared | {"LOCAL_RANK": str(rank), "RANK": str(rank)} for rank in range(processes)]
    started: list[BaseProcess] = [FORKS.Process(target=go_on, args=(config, rank)) for rank in ranks]
    for process in started:
        process.start()
    return started


def finish(processes: list[BaseProcess], timeout: float = 120) -> list[int | None]:
    """Their exit statuses; a process that does not end is ended."""
    for process in processes:
        process.join(timeout)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
