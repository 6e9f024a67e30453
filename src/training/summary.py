"""summary.json of a run, and the short table at its end."""

import json
import platform
import time
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from rich.console import Console
from rich.table import Table

from src.callbacks.checkpoints import Checkpoints
from src.callbacks.image_grids import ImageGrids
from src.callbacks.training_scalars import TrainingScalars
from src.core.run_folder import BEST, CHECKPOINTS, SUMMARY
from src.evaluation.evaluator import KL_SPECTRUM
from src.models.base import GenerativeModel

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")


def find(trainer: Trainer, kind: type[Callback]) -> Any:
    """The run's callback of a kind, or None."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)  # type: ignore[attr-defined]


def write_summary(run_dir: Path, trainer: Trainer, model: GenerativeModel, started_at: float) -> dict[str, Any]:
    """Writes and returns what the run came to. started_at: time.time() of its beginning."""
    checkpoints, scalars = find(trainer, Checkpoints), find(trainer, TrainingScalars)
    summary: dict[str, Any] = {
        "images_seen": model.images_seen,
        "images_per_second": round(scalars.images_per_second, 2) if scalars else None,
        "wall_time_seconds": round(checkpoints.wall_seconds if checkpoints else time.time() - started_at, 1),
        "final": finite({name: value.item() for name, value in sorted(trainer.callback_metrics.items())}),
        "best": finite({"monitor": checkpoints.monitor, **checkpoints.best}) if checkpoints else {},
        "parameters": {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()},
        "processes": trainer.world_size,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    (run_dir / SUMMARY).write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    for logger in trainer.loggers:
        if hasattr(logger, "log_summary"):
            logger.log_summary({f"best/{name}": value for name, value in summary["best"].items()})
    return summary


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: null."""
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in values.items()}


def print_summary(summary: dict[str, Any], run_dir: Path, trainer: Trainer) -> None:
    console = Console()
    table = Table(
        title=f"{summary['images_seen']:,} images in {summary['wall_time_seconds']:.0f} s", title_justify="left"
    )
    table.add_column("metric")
    table.add_column("final", justify="right")
    table.add_column("best checkpoint", justify="right")
    for name, value in summary["final"].items():
        best = summary["best"].get(name)
        if (not name.startswith("train/") or name == "train/loss") and KL_SPECTRUM not in name:
            shown = ["" if number is None else f"{number:,.4g}" for number in (value, best)]
            table.add_row(name, *shown)
    console.print(table)
    grids = find(trainer, ImageGrids)
    for path in [*(grids.written if grids else []), run_dir / CHECKPOINTS / BEST, run_dir / SUMMARY]:
        console.print(str(path), soft_wrap=True, highlight=False)
