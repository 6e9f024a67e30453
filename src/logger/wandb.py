"""Weights & Biases, against the images seen; offline where nobody is logged in, never a question."""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import wandb
import yaml
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment  # type: ignore[attr-defined]
from lightning.pytorch.utilities import rank_zero_only

from src.core.errors import UserError
from src.core.run_folder import BEST, CHECKPOINTS, CONFIG, JOB, STUDY, read_config


def choose_mode() -> Any:
    """Return WANDB_MODE if the user has set it, else online with a login, offline without."""
    return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")


class WandbLogger(LightningWandbLogger):
    """One W&B run for each training run, with `images_seen` as the axis of every chart.

    (Lightning's has the optimizer steps as the axis and takes over a W&B run that another job of the process began.)
    group, name: by default those of a sweep and its job. log_model: uploads the best checkpoint at the end, or all.
    """

    def __init__(
        self,
        save_dir: str,
        project: str,
        name: str | None = None,
        tags: list[str] | None = None,
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        notes: str | None = None,
        log_model: Literal["best", "all", "none"] = "none",
    ) -> None:
        own_group, own_name = place_of(Path(save_dir))
        super().__init__(
            name=name or os.environ.get("WANDB_NAME") or own_name,
            group=group or os.environ.get("WANDB_RUN_GROUP") or own_group,
            save_dir=save_dir, project=project, tags=tags, entity=entity, job_type=job_type, notes=notes,
            resume=None, reinit="create_new",
        )  # fmt: skip
        self.log_model = log_model
        self.checkpoints: Any = None  # the callback that has written some
        self.summarized: set[str] = set()

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
    def resume(self, run_id: str) -> None:
        """Continue a W&B run; what was sent after the checkpoint is sent again, at the same images seen."""
        if not re.fullmatch(r"[\w-]{1,128}", run_id, re.ASCII):
            raise UserError(f"the checkpoint's W&B run is called {run_id!r:.80}, which is no id: refused")
        self._id = run_id
        self._wandb_init |= {"id": run_id, "resume": "allow"}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Send values; step is the images seen. log_image calls it too."""
        numbers = {name for name, value in metrics.items() if isinstance(value, int | float)} - {"images_seen"}
        for name in numbers - self.summarized:  # not by a pattern, which would break the summaries of images
            self.experiment.define_metric(name, step_metric="images_seen", summary="min,max,last")
        self.summarized |= numbers
        self.experiment.log({"images_seen": step, **metrics})

    @rank_zero_only
    def log_summary(self, summary: dict[str, Any]) -> None:
        """Set values of the run's row in W&B's tables: best metrics and totals."""
        self.experiment.summary.update(summary)

    @rank_zero_only
    def alert(self, title: str, text: str) -> None:
        """Send a warning, of which W&B informs by mail or Slack whoever wants it."""
        self.experiment.alert(title, text, level="WARN")

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.checkpoints, newest = checkpoint_callback, checkpoint_callback.newest
        if self.log_model == "all":
            metrics = {**checkpoint_callback.logged, "images_seen": int(newest.stem.removeprefix("images_"))}
            is_best = metrics == checkpoint_callback.best
            self.log_checkpoint(newest, metrics, [newest.stem, *(["best"] if is_best else [])])

    def log_checkpoint(self, path: Path, metrics: dict[str, float], aliases: list[str]) -> None:
        """Upload a checkpoint as an artifact, which has the form of a run folder, so that commands take it as one."""
        artifact = wandb.Artifact(f"model-{self.experiment.id}", "model", metadata=metrics)
        artifact.add_file(str(path), f"{CHECKPOINTS}/{path.name}")
        artifact.add_file(str(path.parents[1] / CONFIG), CONFIG)
        self.experiment.log_artifact(artifact, aliases=aliases)

    def log_folder(self, folder: Path, names: list[str], metrics: dict[str, float]) -> None:
        """Upload the named files of an exported folder as an artifact, which commands take as they take the folder."""
        artifact = wandb.Artifact(f"export-{self.experiment.id}", "model", metadata=metrics)
        for name in names:
            artifact.add_file(str(folder / name), name)
        self.experiment.log_artifact(artifact)

    def finish(self, exit_code: int) -> None:
        """End the W&B run with an exit code, so that the next job of a sweep begins one of its own."""
        if self._experiment is not None:
            if self.log_model == "best" and self.checkpoints:
                metrics = self.checkpoints.best or self.checkpoints.logged
                try:
                    self.log_checkpoint(Path(self.checkpoints.folder, BEST), metrics, ["best"])
                except OSError as error:  # the run may be ending because of another
                    print(f"W&B did not get the best checkpoint: {error}", flush=True)
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None


def place_of(run_dir: Path) -> tuple[str | None, str | None]:
    """Return the group and the name of a run that belongs to a sweep or a search, None for others."""
    with suppress(FileNotFoundError):
        job = json.loads((run_dir / JOB).read_text())
        return f"{run_dir.parent.name}-{job['sweep'][:8]}", f"{job['job']} {job['options']}".strip()
    for folder in list(run_dir.absolute().parents)[:2]:  # a trial's runs of several seeds have a folder each
        with suppress(FileNotFoundError):
            return yaml.safe_load((folder / STUDY).read_text())["name"], str(run_dir.absolute().relative_to(folder))
    return None, None


def continue_run(checkpoint: dict[str, Any], run_dir: Path) -> WandbLogger:
    """Return a logger that continues the W&B run of a checkpoint. Raises UserError where there is none."""
    configs = read_config(run_dir).get("logger") or {}
    options = next((config for config in configs.values() if config and "project" in config), {"project": ""})
    logger = WandbLogger(str(run_dir), options["project"], entity=options.get("entity"))
    match checkpoint:
        case {"logger_versions": {logger.name: str(run_id)}}:
            logger.resume(run_id)
            return logger
    raise UserError(f"wandb=true: {run_dir} has no W&B run to continue; train with logger=wandb, or leave it out")
