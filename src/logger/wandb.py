"""Weights & Biases, against the images seen; offline where nobody is logged in, never a question."""

import contextlib
import json
import os
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment  # type: ignore[attr-defined]
from lightning.pytorch.utilities import rank_zero_only

from src.core.errors import UserError


def choose_mode() -> Any:
    """WANDB_MODE where the user has set it; else online with a login, offline without."""
    return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")


def sent_file(run_dir: Path, run_id: str) -> Path:
    """The images seen of each name's newest value that W&B has been given, for a run that is killed and goes on."""
    return run_dir / "wandb" / f"sent-{run_id}.json"


class WandbLogger(Logger):
    """One W&B run with `images_seen` as the axis of every chart.

    (Lightning's own logger sets the optimizer steps as the axis and shares one run between the jobs of a sweep.)
    """

    def __init__(self, save_dir: str, project: str, name: str | None = None, tags: list[str] | None = None) -> None:
        super().__init__()
        self._save_dir, self._project, self._run_name, self._tags = save_dir, project, name, tags
        self._run: wandb.Run | None = None
        self._run_id: str | None = None
        self._sent: dict[str, int] = {}

    @rank_zero_only
    def resume(self, run_id: str | None, run_dir: Path) -> None:
        """Goes on with the W&B run of a run folder: what it has been sent is not sent again."""
        if not run_id:
            return
        if not re.fullmatch(r"[\w-]{1,128}", run_id, re.ASCII):
            raise UserError(f"the checkpoint's W&B run is called {run_id!r:.80}, which is no id: refused")
        self._run_id = run_id
        for folder in (run_dir, Path(self._save_dir)):
            with contextlib.suppress(OSError, ValueError):
                for name, images_seen in json.loads(sent_file(folder, run_id).read_text()).items():
                    self._sent[name] = max(images_seen, self._sent.get(name, -1))
        self._remember({})

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        return self._run.id if self._run else None

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> wandb.Run:
        """The W&B run, begun when first asked for; on other ranks a stand-in, as Lightning asks on all."""
        if self._run is None:
            Path(self._save_dir).mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                project=self._project,
                name=self._run_name,
                tags=self._tags,
                dir=self._save_dir,
                mode=choose_mode(),
                reinit="create_new",
                id=self._run_id,
                resume="allow" if self._run_id else None,
            )
            self._run_id = self._run.id
            self._run.define_metric("images_seen")
            self._run.define_metric("*", step_metric="images_seen")
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        values = vars(params) if isinstance(params, Namespace) else params
        self.experiment.config.update(values, allow_val_change=True)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        images_seen = metrics["images_seen"]
        new = {name: value for name, value in metrics.items() if images_seen > self._sent.get(name, -1)}
        if not new.keys() - {"images_seen"}:
            return
        self.experiment.log({"images_seen": images_seen, **new})
        self._remember(dict.fromkeys(new, int(images_seen)))

    def _remember(self, sent: dict[str, int]) -> None:
        self._sent |= sent
        path = sent_file(Path(self._save_dir), str(self._run_id))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".part").write_text(json.dumps(self._sent))
        os.replace(path.with_suffix(".part"), path)

    @rank_zero_only
    def log_image(self, name: str, images: list[np.ndarray], images_seen: int) -> None:
        """Images as uint8 (H, W, 3)."""
        self.log_metrics({"images_seen": images_seen, name: [wandb.Image(image) for image in images]})

    @rank_zero_only
    def log_summary(self, summary: dict[str, Any]) -> None:
        """The run's row in tables: best metrics and totals."""
        self.experiment.summary.update(summary)

    def finish(self, exit_code: int) -> None:
        """Ends the run, so that the next job of a sweep begins one of its own."""
        if self._run is not None:
            self._run.finish(exit_code=exit_code)
            self._run = None
