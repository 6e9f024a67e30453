"""Weights & Biases, against the images seen; offline where nobody is logged in, never a question."""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment  # type: ignore[attr-defined]
from lightning.pytorch.utilities import rank_zero_only

from src.core.errors import UserError
from src.core.files import write_atomic


def choose_mode() -> Any:
    """Return WANDB_MODE if the user has set it, else online with a login, offline without."""
    return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")


class WandbLogger(LightningWandbLogger):
    """One W&B run for each training run, with `images_seen` as the axis of every chart.

    (Lightning's has the optimizer steps as the axis and takes over a W&B run that another job of the process began.)
    """

    def __init__(self, save_dir: str, project: str, name: str | None = None, tags: list[str] | None = None) -> None:
        super().__init__(name=name, save_dir=save_dir, project=project, tags=tags, resume=None, reinit="create_new")
        # The images seen of each name's newest value that W&B was sent, for a run that is killed and resumed.
        self.sent: dict[str, int] = {}

    @property
    @rank_zero_experiment
    def experiment(self) -> wandb.Run:
        """The W&B run, begun when first asked for; on other ranks a stand-in, as Lightning asks on all."""
        if self._experiment is None:
            Path(str(self.save_dir)).mkdir(parents=True, exist_ok=True)
            self._experiment = wandb.init(mode=choose_mode(), **self._wandb_init)
            self._experiment.define_metric("images_seen")
            self._experiment.define_metric("*", step_metric="images_seen")
        return self._experiment  # type: ignore[return-value]

    @rank_zero_only
    def resume(self, run_id: str | None, run_dir: Path) -> None:
        """Continue the W&B run of a run folder: what it has been sent is not sent again."""
        if not run_id:
            return
        if not re.fullmatch(r"[\w-]{1,128}", run_id, re.ASCII):
            raise UserError(f"the checkpoint's W&B run is called {run_id!r:.80}, which is no id: refused")
        self._id = run_id
        self._wandb_init |= {"id": run_id, "resume": "allow"}
        for folder in (run_dir, self.save_dir):
            with suppress(OSError, ValueError):
                for name, images_seen in json.loads(self.sent_file(folder).read_text()).items():
                    self.sent[name] = max(images_seen, self.sent.get(name, -1))
        self.note_sent({})

    def sent_file(self, run_dir: str | Path | None) -> Path:
        return Path(str(run_dir), "wandb", f"sent-{self.version}.json")

    def note_sent(self, sent: dict[str, int]) -> None:
        self.sent |= sent
        write_atomic(self.sent_file(self.save_dir), json.dumps(self.sent))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Send the values that W&B lacks; step is the images seen, unless the metrics say so. log_image calls it."""
        images_seen = int(metrics.get("images_seen", step))
        new = {name: value for name, value in metrics.items() if images_seen > self.sent.get(name, -1)}
        if new.keys() - {"images_seen"}:
            self.experiment.log(new | {"images_seen": images_seen})
            self.note_sent(dict.fromkeys(new, images_seen))

    @rank_zero_only
    def log_summary(self, summary: dict[str, Any]) -> None:
        """Set values of the run's row in W&B's tables: best metrics and totals."""
        self.experiment.summary.update(summary)

    def finish(self, exit_code: int) -> None:
        """End the W&B run with an exit code, so that the next job of a sweep begins one of its own."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None
