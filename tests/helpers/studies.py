"""Studies of tiny trials, and workers to be killed."""

import json
import os
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

from src.core.run_folder import owned
from src.training.launcher import launch
from src.tuning import workers
from src.tuning.study import LOCKS, Study, open_study
from tests.helpers.commands import TINY_NETWORKS
from tests.helpers.killed_runs import FORKS

RANDOM = {"_target_": "optuna.samplers.RandomSampler", "seed": 0}
HALVING = {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 64, "reduction_factor": 2}
SPACE: dict[str, Any] = {
    "model.generator_optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "model/adversarial_loss": ["hinge", "relativistic"],
}
TINY = [
    "model=gan",
    "debug=fast",
    "trainer=cpu",
    "metrics=none",
    *TINY_NETWORKS["gan"],
    "data.num_images=64",
    "max_images=256",
    "callbacks.training_scalars.every_images=64",
    "callbacks.evaluation.every_images=64",
    "callbacks.checkpoints.every_images=64",
]


def search_config(**options: Any) -> dict[str, Any]:
    """Return the content of a file of conf/search."""
    defaults = {"space": SPACE, "monitor": "train/generator_loss", "options": TINY}
    return {"_target_": "src.tuning.study.Search", **defaults, **options}


def begin(folder: Path, sampler: dict[str, Any] = RANDOM, storage: str | None = None, **options: Any) -> Study:
    return open_study(folder, {"search": search_config(**options), "storage": storage}, sampler)


def search_file(path: Path, **options: Any) -> Path:
    path.write_text(yaml.safe_dump(search_config(**options)))
    return path


def start_light_run(config: dict[str, Any], typed: list[str], always_apart: bool) -> None:
    with owned(Path(config["run_dir"]), "last"):
        launch("tests.helpers.light_run.fit", config, always_apart)


def run_worker(folder: Path, trials: int, is_light: bool) -> None:
    if is_light:
        workers.start = start_light_run  # type: ignore[attr-defined, assignment]
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    workers.work(folder, trials)


def start_worker(folder: Path, trials: int, is_light: bool = False) -> BaseProcess:
    """A worker in a process of its own, whose imports the fork server has done; is_light: its runs are stand-ins."""
    process: BaseProcess = FORKS.Process(target=run_worker, args=(folder, trials, is_light))
    process.start()
    return process


def times_told(study: Study) -> dict[int, int]:
    """Return how often the journal says that each trial has ended."""
    told = dict.fromkeys((trial._trial_id for trial in study.trials), 0)
    for line in (study.folder / "journal.log").read_text().splitlines():
        record = json.loads(line)
        if record["op_code"] == 6 and record["state"] != 0:  # SET_TRIAL_STATE_VALUES, RUNNING
            told[record["trial_id"]] += 1
    return told


def lock_of(study: Study, number: int) -> Path:
    return study.folder / LOCKS / f"{number:05d}"
