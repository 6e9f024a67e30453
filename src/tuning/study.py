"""A study: a folder of trials, their numbers in a journal or a database, and who has which trial."""

import json
import math
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from src.config.cli import composed
from src.config.validation import instantiate
from src.core.errors import UserError
from src.core.files import locked, write_atomic
from src.core.run_folder import STUDY
from src.core.types import UNMEASURED, Object, Seed

JOURNAL, LOCKS = "journal.log", "locks"
PRUNED_AT, FAILURE = "pruned_at", "failure"  # attributes of a trial: images seen, and a sentence
GRID_POINTS = 5
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(eq=False)
class Search:
    """What is searched: conf/search/<name>.yaml.

    space: option -> [choices] or {low, high, log, step}, of whole numbers if both are; `when: {option: choice}` leaves
    it out unless an earlier option is so. options: of every trial, the budget among them. monitor: what is minimized.
    """

    space: dict[str, Any]
    monitor: str
    options: list[str]
    pruner: Object | None = None
    seeds: list[Seed] = field(default_factory=lambda: [0])
    second_objective: Literal["parameters", "seconds_per_sample"] | None = None


class Journal(JournalFileBackend):
    """Optuna's journal, with a lock that ends with its process, and without the half line that a kill may leave."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._lock:  # type: ignore[attr-defined]
            with open(self._file_path, "r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
            super().append_logs(logs)


class Study:
    """An opened study. settings: the content of study.yaml."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings = folder, yaml.safe_load((folder / STUDY).read_text())
        self.search = as_search(self.settings["search"])
        self.options = [*self.search.options, *self.settings["options"]]
        lock: Any = FileLock(folder / LOCKS / "journal")
        self.optuna = optuna.create_study(
            study_name=self.settings["name"],
            storage=self.settings["storage"] or JournalStorage(Journal(str(folder / JOURNAL), lock)),
            directions=["minimize"] * (2 if self.search.second_objective else 1),
            pruner=self.search.pruner or optuna.pruners.NopPruner(),
            sampler=optuna.samplers.RandomSampler(),  # until `take` needs the study's
            load_if_exists=True,
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, by their numbers."""
        return self.optuna.get_trials(deepcopy=False)

    def run_dir(self, number: int, seed: int) -> Path:
        """Return the folder of a trial's run."""
        return self.folder / f"{number:05d}" / (f"seed_{seed}" if len(self.search.seeds) > 1 else "")

    def take(self, limit: int) -> tuple[Trial, FileLock] | None:
        """Return an abandoned trial or a new one, and its lock, which ends with this process; None if none is left."""
        config = self.settings["sampler"]
        values = grid(self.search.space) if config["_target_"].endswith(".GridSampler") else None
        with locked(self.folder / LOCKS / "study"):
            if values:
                limit = min(limit, math.prod(map(len, values.values())))
            trials = self.trials
            running = {trial.number: trial._trial_id for trial in trials if trial.state == TrialState.RUNNING}
            for number in [*running, *([len(trials)] if len(trials) < limit else [])]:
                lock = FileLock(self.folder / LOCKS / f"{number:05d}")
                with suppress(Timeout):
                    lock.acquire(timeout=0)
                    if number in running and self.trials[number].state != TrialState.RUNNING:
                        lock.release()  # its worker told its end after it was listed
                        continue
                    # Workers that all began with one seed would sample the same; a grid is shuffled once.
                    seed = {"seed": config["seed"] + number}
                    options = {"_partial_": False, "search_space": values} if values else seed
                    self.optuna.sampler = instantiate(config | options)
                    trial = Trial(self.optuna, running[number]) if number in running else self.optuna.ask()
                    suggest(trial, self.search.space)
                    self.optuna.sampler = optuna.samplers.RandomSampler()
                    return trial, lock
        return None


def open_study(folder: Path, given: dict[str, Any], sampler: dict[str, Any]) -> Study:
    """Open the study of a folder, or begin it with what is given: search, sampler, storage, options; None: left open.

    sampler: of a study that begins without one. Raises UserError where it began with something else.
    """
    path = folder / STUDY
    given = {name: value for name, value in given.items() if value is not None}
    if not path.exists() and "search" not in given:
        raise UserError(f"study={folder}: there is no study yet; begin one with search=gan_cpu or search=PATH.yaml")
    with locked(folder / LOCKS / "study"):
        if not path.exists():
            name = f"{folder.name}-{secrets.token_hex(4)}"
            settings = {"name": name, "sampler": sampler, "storage": None, "options": [], **given}
            search = as_search(settings["search"])
            names = [option.lstrip("+").partition("=")[0] for option in settings["options"]]
            if own := [name for name in names if name in (*search.space, "seed", "run_dir", "resume")]:
                raise UserError(f"{own[0]}: each trial has its own; leave it out, or change the search (search.seeds)")
            options = [*search.options, *settings["options"]]
            if removed := [option for option in options if option.startswith("~")]:
                raise UserError(f"{removed[0]}: best.yaml could not remove it again; take an experiment without it")
            length = example_config(search, options)["max_images"]
            if "max_images" in names and length == UNMEASURED:
                raise UserError("max_images follows from the search's budget: add budget_cpu_s=null budget_s=null")
            write_atomic(path, yaml.safe_dump(settings, sort_keys=False))
        study = Study(folder)
    if changed := [name for name, value in given.items() if study.settings[name] != value]:
        raise UserError(f"study={folder} keeps its {' and '.join(changed)}: leave it out, or begin another study")
    return study


def example_config(search: Search, options: list[str]) -> dict[str, Any]:
    """Return the checked config of a trial that is sampled at random. Raises UserError for a space that is none."""
    try:
        own = suggest(optuna.create_study().ask(), search.space)
    except (TypeError, ValueError) as error:
        raise UserError(f"search.space: {error}; give [choices], or {{low: ..., high: ..., log: ...}}") from error
    return composed("train", [*options, *own])


def as_search(config: dict[str, Any]) -> Search:
    """Return the Search of a checked config. (Hydra would resolve the ${...} that are for the trials' configs.)"""
    options = {name: value for name, value in config.items() if name != "_target_"}
    return Search(**options | {"pruner": instantiate(options.get("pruner"))})


def suggest(trial: BaseTrial, space: dict[str, Any]) -> list[str]:
    """Return a trial's options as they are typed: sampled when first asked for, and the same ever after."""
    values: dict[str, Any] = {}
    for name, entry in space.items():
        options: dict[str, Any] = {"choices": entry} if isinstance(entry, list) else dict(entry)
        if any(values.get(other) != choice for other, choice in options.pop("when", {}).items()):
            continue
        whole = all(isinstance(options.get(end), int) for end in ("low", "high"))
        kind = "categorical" if "choices" in options else "int" if whole else "float"
        values[name] = getattr(trial, f"suggest_{kind}")(name, **options)
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()]


def grid(space: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the values that a grid has of each option."""
    entries = {name: {"choices": entry} if isinstance(entry, list) else entry for name, entry in space.items()}
    return {name: entry["choices"] if "choices" in entry else points(**entry) for name, entry in entries.items()}


def points(low: float, high: float, step: float = 0, log: bool = False, when: Any = None) -> list[Any]:
    """Return the values that a grid has of a range: every step, or GRID_POINTS."""
    if step:
        values = np.arange(low, high + 1e-9 * step, step)
    else:
        values = (np.geomspace if log else np.linspace)(low, high, GRID_POINTS)
    is_whole = isinstance(low, int) and isinstance(high, int)
    return sorted({round(value) for value in values}) if is_whole else values.clip(low, high).tolist()
