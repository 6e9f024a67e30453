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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from optuna.trial import FrozenTrial, Trial, TrialState

from src.callbacks.periodic import PeriodicCallback
from src.config.cli import as_text, composed
from src.core.errors import STOPPED, RunFailed, UserError
from src.core.run_folder import SUMMARY
from src.evaluation.from_checkpoint import load_run
from src.models.base import GenerativeModel
from src.training.launcher import count_ranks, start
from src.tuning.study import FAILURE, PRUNED_AT, Study, example_config, suggest

SAMPLES = 64  # drawn at once to measure what a sample costs


@dataclass(eq=False)
class ReportToStudy(PeriodicCallback):
    """Reports the monitored metric after each evaluation, in the run; one that is pruned is asked to stop."""

    study: str
    number: int

    @cached_property
    def opened(self) -> Study:
        return Study(Path(self.study))

    def run(self, trainer: Trainer, model: GenerativeModel) -> None:
        value = trainer.callback_metrics.get(self.opened.search.monitor) if trainer.is_global_zero else None
        if value is not None:
            trial = Trial(self.opened.optuna, self.opened.trials[self.number]._trial_id)
            trial.report(value.item(), model.images_seen)
            if not trainer.should_stop and trial.should_prune():
                trial.set_user_attr(PRUNED_AT, model.images_seen)
                signal.raise_signal(signal.SIGTERM)


def work(folder: Path, trials: int) -> None:
    """Run trials until the study has so many and none is abandoned. A request to stop leaves its trial resumable."""
    study = Study(folder)
    example_config(study.search, study.options)  # where the images are missing, no trial fails
    while taken := study.take(trials):
        trial, lock = taken
        try:
            run_trial(study, trial)
        finally:
            lock.release()
        print(progress(study, trials), flush=True)


def run_trial(study: Study, trial: Trial) -> None:
    """Run a trial, one run for each seed, and tell the study its values, or that it was pruned, or why it failed."""

    def was_pruned() -> bool:
        return PRUNED_AT in study.trials[trial.number].user_attrs

    values, failure = [], ""
    try:
        if not was_pruned():  # else its worker was killed before it told so
            values = [run_seed(study, trial, seed) for seed in study.search.seeds]
    except UserError as error:
        failure = str(error)
    except RunFailed as error:
        # Only a run that was pruned stops without being asked to from outside.
        if error.requested or (error.code == STOPPED and not was_pruned()):
            raise
        failure = error.reason
    if was_pruned():
        study.optuna.tell(trial, state=TrialState.PRUNED)
    elif failure:
        trial.set_user_attr(FAILURE, failure)
        study.optuna.tell(trial, state=TrialState.FAIL)
    else:
        study.optuna.tell(trial, [statistics.mean(column) for column in zip(*values, strict=True)])


def run_seed(study: Study, trial: Trial, seed: int) -> list[float]:
    """Train one run of a trial, or go on with it, and return its objectives. Raises UserError if one is missing."""
    search, folder = study.search, study.run_dir(trial.number, seed)
    own = [*suggest(trial, search.space), f"seed={seed}"]
    print(f"trial {trial.number}: {' '.join(own)}", flush=True)
    typed = [*study.options, *own, f"run_dir={as_text(str(folder))}", "resume=last"]
    config = composed("train", typed)
    if seed == search.seeds[0] and not search.second_objective:
        report = {"study": str(study.folder), "number": trial.number, "_target_": f"{__name__}.ReportToStudy"}
        every_images = config["callbacks"]["evaluation"]["every_images"]
        config["callbacks"]["study"] = report | {"every_images": every_images}
    start(config, typed, always_apart=True)
    value = json.loads((folder / SUMMARY).read_text())["final"].get(search.monitor)
    if value is None:
        raise UserError(f"{search.monitor} was not measured or is not finite; search.monitor takes a metric of the run")
    return [value, *([sampling_cost(folder)[search.second_objective]] if search.second_objective else [])]


def sampling_cost(folder: Path) -> dict[str, float]:
    """Return the number of parameters that sampling uses, and its seconds per image on this machine's processor."""
    model, seconds = load_run(folder, "cpu").inference, []
    for _ in range(4):
        started_at = time.perf_counter()
        model.sample(SAMPLES)
        seconds.append(time.perf_counter() - started_at)
    parameters = sum(weight.numel() for weight in model.decoder.parameters())
    return {"parameters": parameters, "seconds_per_sample": min(seconds) / SAMPLES}


def best_trials(study: Study) -> list[FrozenTrial]:
    """Return the complete trials, the lowest monitored metric first."""
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: trial.values[0])


def progress(study: Study, limit: int) -> str:
    """Return a line on how far the study is."""
    trials = study.trials
    states = Counter(trial.state.name.lower().replace("fail", "failed") for trial in trials)
    seconds = [trial.duration.total_seconds() for trial in trials if trial.duration]
    counts = [f"{count} {state}" for state, count in states.items()]
    line = f"{len(seconds)} of {max(limit, len(trials))} trials, {', '.join(counts)}"
    for trial in best_trials(study)[:1]:
        line += f", best {study.search.monitor} {trial.values[0]:.4g} (trial {trial.number})"
    if seconds and limit > len(seconds):
        left = statistics.mean(seconds) * (limit - len(seconds)) / max(states["running"], 1)
        line += f", about {left / 60:.0f} min left"
    return line


def start_workers(study: Study, trials: int, workers: int) -> None:
    """Start worker processes on this machine and wait for them.

    Each has a log file, its share of the cores, and GPUs of its own as far as they go around.
    """
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    gpus = gpus or [str(gpu) for gpu in range(torch.cuda.device_count())]
    share = min(count_ranks(example_config(study.search, study.options)["trainer"]), len(gpus))
    code = f"from pathlib import Path; from src.tuning.workers import work; work(Path({str(study.folder)!r}), {trials})"
    processes = []
    for index in range(workers):
        environment = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // workers, 1))} | os.environ
        if gpus:
            mine = [gpus[place % len(gpus)] for place in range(index * share, (index + 1) * share)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        with (study.folder / f"worker_{index}.log").open("a") as log:
            command = [sys.executable, "-c", code]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        wait(study, trials, lambda: all(process.poll() is not None for process in processes))
    finally:
        for process in processes:
            process.terminate()
        statuses = [process.wait() for process in processes]
    if any(statuses):
        raise UserError(
            f"workers ended with status {statuses}: see {study.folder}/worker_*.log; the same command goes on"
        )


def submit_workers(study: Study, trials: int, workers: int, cluster: str, options: dict[str, Any]) -> None:
    """Submit workers as one array of submitit's jobs and wait for them; on a cluster they outlive this process."""
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"cluster={cluster} wants submitit: pip install submitit") from error
    executor = submitit.AutoExecutor(folder=study.folder / "submitit", cluster=cluster)
    executor.update_parameters(**{"timeout_min": 24 * 60, **options})
    jobs = executor.map_array(work, [study.folder] * workers, [trials] * workers)
    print(f"jobs {', '.join(job.job_id for job in jobs)}; their output is in {executor.folder}", flush=True)
    wait(study, trials, lambda: all(job.done() for job in jobs))
    for job in jobs:
        job.result()


def wait(study: Study, trials: int, have_ended: Callable[[], bool]) -> None:
    """Wait until all workers have ended, and print how far the study is whenever that changes."""
    shown = ""
    while not have_ended():
        line = progress(study, trials)
        if line.partition(", about")[0] != shown.partition(", about")[0]:
            print(line, flush=True)
        shown = line
        time.sleep(1)
