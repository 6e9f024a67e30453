"""Workers: each takes trials of a study one after the other; any number of them, in one process or on many machines."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from optuna.trial import Trial, TrialState

from src.config.cli import composed
from src.core.errors import STOPPED, RunFailed, UserError
from src.core.run_folder import SUMMARY
from src.evaluation.from_checkpoint import load_run
from src.training.launcher import count_ranks, start
from src.tuning.study import FAILURE, PRUNED_AT, Study, open_study

SAMPLES = 64  # drawn at once to measure what a sample costs


def work(folder: str, trials: int) -> None:
    """Run trials until the study has so many and none is abandoned. A request to stop leaves the trial resumable."""
    study = open_study(Path(folder), {}, {}, [])
    while taken := study.take(trials):
        number, options, lock = taken
        with lock:
            print(f"trial {number}: {' '.join(options)}", flush=True)
            run_trial(study, number, options)
        print(progress(study, trials), flush=True)


def run_trial(study: Study, number: int, options: list[str]) -> None:
    """Run a trial, one run for each seed, and tell the study its values, or that it was pruned, or why it failed."""
    values, failure = [], ""
    try:
        if PRUNED_AT not in study.trials[number].user_attrs:  # else its worker was killed before it told so
            values = [run_seed(study, number, options, seed) for seed in study.search.seeds]
    except UserError as error:
        failure = str(error)
    except RunFailed as error:
        # Only a run that was pruned stops without being asked to from outside.
        if error.requested or (error.code == STOPPED and PRUNED_AT not in study.trials[number].user_attrs):
            raise
        failure = error.reason
    if PRUNED_AT in study.trials[number].user_attrs:
        study.optuna.tell(number, state=TrialState.PRUNED)
    elif failure:
        Trial(study.optuna, study.trials[number]._trial_id).set_user_attr(FAILURE, failure)
        study.optuna.tell(number, state=TrialState.FAIL)
    else:
        study.optuna.tell(number, [statistics.mean(column) for column in zip(*values, strict=True)])


def run_seed(study: Study, number: int, options: list[str], seed: int) -> list[float]:
    """Train one run of a trial, or go on with it, and return its objectives. Raises UserError if one is missing."""
    search, folder = study.search, study.run_dir(number, seed)
    escaped = str(folder).replace("'", "\\'")
    typed = [*study.options, *options, f"seed={seed}", f"run_dir='{escaped}'", "resume=last"]
    config = composed("train", typed)
    if seed == search.seeds[0] and not search.second_objective:
        every_images = config["callbacks"]["evaluation"]["every_images"]
        report = {"study": str(study.folder), "number": number, "every_images": every_images}
        config["callbacks"]["study"] = {"_target_": "src.tuning.reporting.ReportToStudy", **report}
    if config["logger"].get("wandb"):
        config["logger"]["wandb"] |= {"group": study.settings["name"], "name": str(folder.relative_to(study.folder))}
    start(config, typed, always_apart=True)
    value = json.loads((folder / SUMMARY).read_text())["final"].get(search.monitor)
    if value is None:
        raise UserError(f"{search.monitor} is not finite or not measured; search.monitor is one of the run's metrics")
    return [value, *([sampling_cost(folder)[search.second_objective]] if search.second_objective else [])]


def sampling_cost(folder: Path) -> dict[str, float]:
    """Return the number of parameters that sampling uses, and its seconds per image on this machine's processor."""
    model, used = load_run(folder, "cpu").model, dict[int, int]()
    for module in model.modules():
        module.register_forward_hook(
            lambda module, *_: used.update({id(weight): weight.numel() for weight in module.parameters(recurse=False)})
        )
    seconds = []
    for _ in range(4):
        started_at = time.perf_counter()
        model.sample(SAMPLES)
        seconds.append(time.perf_counter() - started_at)
    return {"parameters": sum(used.values()), "seconds_per_sample": min(seconds) / SAMPLES}


def progress(study: Study, limit: int) -> str:
    """Return a line on how far the study is."""
    trials = study.trials
    count = Counter(trial.state for trial in trials)
    ended = [trial for trial in trials if trial.state.is_finished()]
    best = min((trial for trial in ended if trial.state == TrialState.COMPLETE), key=lambda t: t.values[0], default=None)
    shown = [f"{len(ended)} of {max(limit, len(trials))} trials"]
    names = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    shown += [f"{count[state]} {name}" for name, state in (names | {"running": TrialState.RUNNING}).items() if count[state]]
    if best:
        shown.append(f"best {study.search.monitor} {best.values[0]:.4g} (trial {best.number})")
    if ended:
        seconds = statistics.mean(trial.duration.total_seconds() for trial in ended if trial.duration)
        left = seconds * (limit - len(ended)) / max(count[TrialState.RUNNING], 1)
        shown.append(f"about {max(left, 0) / 60:.0f} min left")
    return ", ".join(shown)


def start_workers(study: Study, trials: int, workers: int) -> None:
    """Start worker processes on this machine and wait for them, with a line whenever a trial has ended.

    Each has its share of the cores, GPUs of its own as far as they go around, and a log file.
    """
    threads = str(max((os.cpu_count() or 1) // workers, 1))
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    gpus = gpus or [str(gpu) for gpu in range(torch.cuda.device_count())]
    per_worker = count_ranks(composed("train", study.options)["trainer"])
    processes = []
    for index in range(workers):
        environment = {"OMP_NUM_THREADS": threads} | os.environ
        if gpus:
            mine = [gpus[(index * per_worker + place) % len(gpus)] for place in range(min(per_worker, len(gpus)))]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        code = f"from src.tuning.workers import work; work({str(study.folder)!r}, {trials})"
        with (study.folder / f"worker_{index}.log").open("a") as log:
            command = [sys.executable, "-c", code]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        wait(study, trials, [lambda process=process: process.poll() is not None for process in processes])
    finally:
        for process in processes:
            process.terminate()
        statuses = [process.wait() for process in processes]
    if any(statuses):
        raise UserError(f"workers ended with status {statuses}; the same command goes on, {study.folder}/*.log say why")


def start_on_cluster(study: Study, trials: int, workers: int, cluster: str, options: dict[str, Any]) -> None:
    """Start workers as one array of jobs by submitit, and wait for them; they go on if this process is ended."""
    try:
        import submitit
    except ImportError as error:
        raise UserError("cluster=... needs submitit: pip install submitit") from error
    executor = submitit.AutoExecutor(folder=study.folder / "submitit", cluster=cluster)
    executor.update_parameters(**{"timeout_min": 24 * 60, "slurm_array_parallelism": workers, **options})
    jobs = executor.map_array(work, [str(study.folder)] * workers, [trials] * workers)
    print(f"jobs {', '.join(job.job_id for job in jobs)}, their output is in {executor.folder}", flush=True)
    wait(study, trials, [job.done for job in jobs])
    for job in jobs:
        job.result()


def wait(study: Study, trials: int, have_ended: list[Callable[[], bool]]) -> None:
    """Wait until all workers have ended, and print how far the study is whenever that changes."""
    line = ""
    while not all(has_ended() for has_ended in have_ended):
        now = progress(study, trials)
        if now.rpartition(", about")[0] != line.rpartition(", about")[0]:
            print(now, flush=True)
        line = now
        time.sleep(1)
