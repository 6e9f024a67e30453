"""A run's summary.json, and the short table at its end."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning import Trainer
from rich.console import Console
from rich.table import Column, Table

from src.core.errors import printable
from src.core.files import write_atomic
from src.core.run_folder import BEST, CHECKPOINTS, IMAGES, SUMMARY
from src.evaluation.evaluator import KL_SPECTRUM
from src.models.base import GenerativeModel

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")


def write_summary(run_dir: Path, trainer: Trainer, model: GenerativeModel, callbacks: dict[str, Any]) -> dict[str, Any]:
    """Write summary.json and return its content. callbacks: those of the run, by their names in the config."""
    checkpoints, scalars = callbacks["checkpoints"], callbacks["training_scalars"]
    summary: dict[str, Any] = {
        "images_seen": model.images_seen,
        "images_per_second": round(scalars.images_per_second, 2),
        "wall_time_seconds": round(checkpoints.seconds["wall_seconds"], 1),
        "processor_seconds": round(checkpoints.seconds["processor_seconds"], 1),
        "final": {name: value.item() for name, value in sorted(trainer.callback_metrics.items())},
        "best": {"monitor": checkpoints.monitor, **checkpoints.best},
        "parameters": {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()},
        "ranks": trainer.world_size,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    summary = json.loads(json.dumps(summary), parse_constant=lambda name: None)  # JSON has no NaN and no infinity
    write_atomic(run_dir / SUMMARY, json.dumps(summary, indent=2) + "\n")
    for logger in trainer.loggers:
        if hasattr(logger, "log_summary"):
            logger.log_summary({f"best/{name}": value for name, value in summary["best"].items()})
    return summary


def print_summary(summary: dict[str, Any], run_dir: Path) -> None:
    """Print the run's length, a table of its metrics (training scalars and spectra only in the file), its files."""
    console = Console(markup=False, emoji=False)
    console.print(f"{summary['images_seen']:,} images in {summary['wall_time_seconds']:.0f} s", highlight=False)
    table = Table("metric", *(Column(name, justify="right") for name in ("final", "best checkpoint")))
    for name, value in summary["final"].items():
        if (not name.startswith("train/") or name == "train/loss") and KL_SPECTRUM not in name:
            numbers = (value, summary["best"].get(name))
            table.add_row(printable(name), *("" if number is None else f"{number:,.4g}" for number in numbers))
    if table.rows:
        console.print(table)
    grids = sorted((run_dir / IMAGES).glob(f"*_{summary['images_seen']:09d}.png"))
    for path in [*grids, *(run_dir / CHECKPOINTS).glob(BEST), run_dir / SUMMARY]:
        console.print(str(path), soft_wrap=True, highlight=False)
