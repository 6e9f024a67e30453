"""Reports a trial to its study from inside the run, and stops the run when it is pruned."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning import Trainer
from optuna.trial import Trial

from src.callbacks.periodic import PeriodicCallback
from src.core.files import locked
from src.core.ranks import get_rank_info
from src.models.base import GenerativeModel
from src.tuning.study import LOCKS, PRUNED_AT, SETTINGS, Study


@dataclass(eq=False)
class ReportToStudy(PeriodicCallback):
    """Reports the monitored metric after each evaluation; a pruned run is asked to stop, with a checkpoint.

    Rank zero holds a lock from its beginning: a run whose worker was killed may end seconds after it.
    """

    study: str
    number: int

    def __post_init__(self) -> None:
        folder = Path(self.study)
        here = get_rank_info()
        if not here or here.rank == 0:
            self.lock = locked(folder / LOCKS / f"{self.number:05d}.run")
            self.opened = Study(folder, yaml.safe_load((folder / SETTINGS).read_text()))

    def run(self, trainer: Trainer, model: GenerativeModel) -> None:
        value = trainer.callback_metrics.get(self.opened.search.monitor) if trainer.is_global_zero else None
        if value is None:
            return
        trial = Trial(self.opened.optuna, self.opened.trials[self.number]._trial_id)
        trial.report(value.item(), model.images_seen)
        if not trainer.should_stop and trial.should_prune():
            trial.set_user_attr(PRUNED_AT, model.images_seen)
            signal.raise_signal(signal.SIGTERM)
