"""The complete evaluation of a model: metrics.json, grids of nearest neighbors, and a short table."""

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from src.core.files import write_atomic
from src.core.images import save_grid
from src.evaluation.evaluator import Evaluator
from src.evaluation.memorization import NEIGHBORS, memorization
from src.evaluation.representation import representation
from src.models.autoencoder import EncodingModel


def write_evaluation(
    evaluator: Evaluator, folder: Path, checkpoint: str, neighbors: int, importance_samples: int, max_bound_images: int
) -> None:
    """Write metrics.json and neighbors_<network>.png, and print the metrics that are numbers. For one process only.

    neighbors: rows of a grid, 0 for none. importance_samples, max_bound_images: see representation.
    """
    torch.manual_seed(evaluator.seed)
    results: dict[str, Any] = evaluator.losses(evaluator.reference) | evaluator.sample_metrics()
    grids = {}
    for metrics in evaluator.feature_metrics if neighbors else ():
        values, grids[folder / f"neighbors_{metrics.features.name}.png"] = memorization(evaluator, metrics, neighbors)
        results |= values
    if isinstance(evaluator.model, EncodingModel):
        results |= representation(evaluator, evaluator.model, max_bound_images, importance_samples)
    facts = {
        "num_images": evaluator.num_images,
        "seed": evaluator.seed,
        "reference": evaluator.reference,
        "num_reference_images": len(evaluator.data.images(evaluator.reference, evaluator.max_reference_images)),
        "data": evaluator.data.source.description,
        "checkpoint": checkpoint,
        "images_seen": evaluator.model.images_seen,
    }
    write_atomic(folder / "metrics.json", json.dumps(results | facts, indent=2) + "\n")
    for path, grid in grids.items():
        save_grid(grid, path, NEIGHBORS + 2)
    console, table = Console(markup=False, emoji=False), Table("metric")
    table.add_column("value", justify="right")
    for name, value in results.items():
        if not isinstance(value, list):
            table.add_row(name, f"{value:,.4g}")
    if table.row_count:
        console.print(table)
    for path in (folder / "metrics.json", *grids):
        console.print(str(path), soft_wrap=True, highlight=False)
