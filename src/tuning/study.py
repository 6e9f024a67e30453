"""A study: a folder of trials, their numbers in a journal or a database, and which worker has which trial."""

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
from optuna.trial import Trial, TrialState

from src.config.cli import composed
from src.config.validation import instantiate
from src.core.errors import UserError
from src.core.files import locked, write_atomic
from src.core.types import Object, Seed

optuna.logging.set_verbosity(optuna.logging.WARNING)
SETTINGS, JOURNAL, LOCKS = "study.yaml", "journal.log", "locks"
GRID_POINTS = 5
PRUNED_AT, FAILURE = "pruned_at", "failure"  # attributes of a trial: images seen, and a sentence


@dataclass(eq=False)
class Search:
    """What is searched: conf/search/<name>.yaml.

    space: option -> [choices] or {low, high, log, step}, whole numbers if both are; `when: {option: value}` makes it
    depend on an earlier choice. options: of every trial, the budget among them. monitor: the metric to minimize.
    """

    space: dict[str, Any]
    monitor: str
    options: list[str]
    pruner: Object | None = None
    seeds: list[Seed] = field(default_factory=lambda: [0])
    second_objective: Literal["parameters", "seconds_per_sample"] | None = None


def as_search(config: dict[str, Any]) -> Search:
    """Return the Search of a checked config. (Hydra would resolve the ${...} that are for the trials' configs.)"""
    options = {name: value for name, value in config.items() if name != "_target_"}
    return Search(**options | {"pruner": instantiate(options.get("pruner"))})


class Journal(JournalFileBackend):
    """Optuna's journal with a lock that ends with its process; half a line that a killed process left is cut off."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), FileLock(path.with_suffix(".lock")))  # type: ignore[arg-type]
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._lock:  # type: ignore[attr-defined]
            content = self.path.read_bytes()
            if not content.endswith(b"\n"):
                with self.path.open("r+b") as file:
                    file.truncate(content.rfind(b"\n") + 1)
            super().append_logs(logs)


@dataclass(eq=False)
class Study:
    """An opened study; settings: the content of study.yaml."""

    folder: Path
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.search = as_search(self.settings["search"])
        self.options: list[str] = [*self.search.options, *self.settings["options"]]
        url = self.settings["storage"]
        storage = optuna.storages.RDBStorage(url) if url else JournalStorage(Journal(self.folder / JOURNAL))
        self.is_multi = self.search.second_objective is not None
        with locked(self.folder / LOCKS / "study"):
            self.optuna = optuna.create_study(
                study_name=self.settings["name"], storage=storage, load_if_exists=True,
                directions=["minimize"] * (1 + self.is_multi), sampler=optuna.samplers.RandomSampler(),
                pruner=self.search.pruner or optuna.pruners.NopPruner(),
            )  # fmt: skip

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def run_dir(self, number: int, seed: int) -> Path:
        """Return the folder of a trial's run."""
        return self.folder / f"{number:05d}" / (f"seed_{seed}" if len(self.search.seeds) > 1 else "")

    def sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Return the sampler of a trial: workers that all begin with one seed would sample the same."""
        config = dict(self.settings["sampler"])
        if config["_target_"].endswith(".GridSampler"):
            return instantiate(config)(grid(self.search.space))
        return instantiate(config | {"seed": config["seed"] + number})

    def take(self, limit: int) -> tuple[int, list[str], FileLock] | None:
        """Return an abandoned trial or a new one, None if there are none left: its number, its options, its lock.

        The lock ends with this process, and whoever then takes the trial gets the same options.
        """
        with locked(self.folder / LOCKS / "study"):
            trials = self.trials
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            if self.settings["sampler"]["_target_"].endswith(".GridSampler"):
                limit = min(limit, math.prod(map(len, grid(self.search.space).values())))
            numbers = [*(trial.number for trial in running), *([len(trials)] if len(trials) < limit else [])]
            for number in numbers:
                lock = FileLock(self.folder / LOCKS / f"{number:05d}")
                with suppress(Timeout):
                    lock.acquire(timeout=0)
                    self.optuna.sampler = self.sampler(number)
                    found = next((trial for trial in running if trial.number == number), None)
                    trial = Trial(self.optuna, found._trial_id) if found else self.optuna.ask()
                    return number, suggest(trial, self.search.space), lock
        return None


def suggest(trial: Trial, space: dict[str, Any]) -> list[str]:
    """Return a trial's options as they are typed. They are sampled when first asked for, and kept."""
    values: dict[str, Any] = {}
    for name, entry in space.items():
        options = {"choices": entry} if isinstance(entry, list) else dict(entry)
        when = options.pop("when", {})
        if any(values.get(other) not in np.atleast_1d(np.array(wanted, object)) for other, wanted in when.items()):
            continue
        if "choices" in options:
            values[name] = trial.suggest_categorical(name, **options)
        elif all(isinstance(value, int) for value in options.values()):
            values[name] = trial.suggest_int(name, **options)
        else:
            values[name] = trial.suggest_float(name, **options)
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()]


def grid(space: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the values that a grid has of each option: all whole numbers and steps, else GRID_POINTS of a range."""
    values: dict[str, list[Any]] = {}
    for name, entry in space.items():
        match entry:
            case list() | {"choices": list()}:
                values[name] = entry if isinstance(entry, list) else entry["choices"]
            case {"low": low, "high": high, "log": True}:
                points = np.geomspace(low, high, GRID_POINTS).clip(low, high).tolist()
                values[name] = sorted(set(map(round, points))) if isinstance(low, int) else points
            case {"low": low, "high": high}:
                step = entry.get("step", 1 if isinstance(low, int) and isinstance(high, int) else None)
                count = int((high - low) / step + 1e-9) + 1 if step else GRID_POINTS
                values[name] = [low + step * i for i in range(count)] if step else np.linspace(low, high, count).tolist()
    return values


def open_study(folder: Path, given: dict[str, Any], sampler: dict[str, Any], options: list[str]) -> Study:
    """Open the study of a folder, or begin it with what is given: search, sampler and storage; None is left open.

    options: those of src.train for every trial. Raises UserError where they are not those that the study began with.
    """
    path = folder / SETTINGS
    given = {name: value for name, value in (given | {"options": options or None}).items() if value is not None}
    if not path.exists() and "search" not in given:
        raise UserError(f"study={folder}: there is no study yet; begin one with search=gan_cpu or another search")
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCKS / "study"):
        if not path.exists():
            name = f"{folder.name}-{secrets.token_hex(4)}"
            settings = {"name": name, "sampler": sampler, "storage": None, "options": [], **given}
            search = as_search(given["search"])
            try:
                example = suggest(optuna.create_study().ask(), search.space)
            except (TypeError, ValueError) as error:
                raise UserError(f"search.space: {error}; give [choices], or {{low: ..., high: ..., log: ...}}") from error
            composed("train", [*search.options, *settings["options"], *example])
            write_atomic(path, yaml.safe_dump(settings, sort_keys=False))
        settings = yaml.safe_load(path.read_text())
    changed = [name for name, value in given.items() if settings[name] != value]
    if changed:
        raise UserError(f"the study {folder} keeps its {' and '.join(changed)}; leave them out, or begin another study")
    return Study(folder, settings)
