"""The complete evaluation of a model: metrics.json, grids of nearest neighbors, and a short table."""

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from src.core.files import write_atomic
from src.core.images import save_grid
from src.evaluation.evaluator import Evaluator
from src.evaluation.memorization import NEIGHBORS, memorization
from src.evaluation.representation import Representation
from src.models.autoencoder import EncodingModel


def evaluate_all(
    evaluator: Evaluator, neighbors: int, importance_samples: int, max_bound_images: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return every metric by name, and a grid of nearest neighbors by feature network. For one process only.

    neighbors: rows of a grid, 0 for none. importance_samples, max_bound_images: see Representation.
    """
    torch.manual_seed(evaluator.seed)
    results: dict[str, Any] = evaluator.losses(evaluator.reference) | evaluator.sample_metrics()
    grids = {}
    if neighbors:
        for metrics in evaluator.feature_metrics:
            values, grids[metrics.features.name] = memorization(evaluator, metrics, neighbors)
            results |= values
    if isinstance(evaluator.model, EncodingModel):
        results |= Representation(evaluator, evaluator.model, max_bound_images, importance_samples).metrics()
    return results, grids


def write_evaluation(
    folder: Path, evaluator: Evaluator, checkpoint: str, results: dict[str, Any], grids: dict[str, Tensor]
) -> None:
    """Write metrics.json and neighbors_<network>.png to the folder, and print the metrics that are single numbers."""
    facts = {
        "num_images": evaluator.num_images,
        "seed": evaluator.seed,
        "reference": evaluator.reference,
        "num_reference_images": len(evaluator.data.images(evaluator.reference, evaluator.max_reference_images)),
        "data": evaluator.data.source.description,
        "checkpoint": checkpoint,
        "images_seen": evaluator.model.images_seen,
    }
    files = [folder / "metrics.json", *(folder / f"neighbors_{name}.png" for name in grids)]
    write_atomic(files[0], json.dumps(results | facts, indent=2) + "\n")
    for path, grid in zip(files[1:], grids.values(), strict=True):
        save_grid(grid, path, NEIGHBORS + 2)
    console, table = Console(), Table("metric")
    table.add_column("value", justify="right")
    for name, value in results.items():
        if not isinstance(value, list):
            table.add_row(name, f"{value:,.4g}")
    if table.row_count:
        console.print(table)
    for path in files:
        console.print(str(path), soft_wrap=True, highlight=False)
