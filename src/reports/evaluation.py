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
from src.evaluation.given_samples import GivenSamples
from src.evaluation.memorization import MAX_SAMPLES, NEIGHBORS, memorization
from src.evaluation.representation import representation
from src.models.autoencoder import EncodingModel


def write_evaluation(
    evaluator: Evaluator, folder: Path, evaluated: Any, neighbors: int, importance_samples: int, max_bound_images: int
) -> None:
    """Write metrics.json and neighbors_<network>.png, and print each number with what it is of. For one process only.

    evaluated: the checkpoint, or where the samples are from. neighbors: rows of a grid, 0 for none.
    importance_samples, max_bound_images: see representation.
    """
    torch.manual_seed(evaluator.seed)
    parts: list[tuple[str, dict[str, Any]]] = [
        (evaluator.number_of(evaluator.unseen), evaluator.losses(evaluator.unseen)),
        (f"{evaluator.num_images:,} samples", evaluator.sample_metrics()),
    ]
    grids = {}
    for metrics in evaluator.feature_metrics if neighbors else ():
        values, grids[folder / f"neighbors_{metrics.features.name}.png"] = memorization(evaluator, metrics, neighbors)
        parts.append((f"{min(evaluator.num_images, MAX_SAMPLES):,} samples, or held-out images", values))
    if isinstance(evaluator.model, EncodingModel):
        parts += representation(evaluator, evaluator.model, max_bound_images, importance_samples)
    facts = {
        "num_images": evaluator.num_images,
        "seed": evaluator.seed,
        "reference": evaluator.reference,
        "num_reference_images": len(evaluator.data.images(evaluator.reference, evaluator.max_reference_images)),
        "losses_of": evaluator.number_of(evaluator.unseen),
        "data": evaluator.data.source.description,
        "samples" if isinstance(evaluator.model, GivenSamples) else "checkpoint": str(evaluated),
        "images_seen": evaluator.model.images_seen,
    }
    results = {name: value for _, values in parts for name, value in values.items()}
    write_atomic(folder / "metrics.json", json.dumps(results | facts, indent=2) + "\n")
    for path, grid in grids.items():
        save_grid(grid, path, NEIGHBORS + 2)
    console, table = Console(markup=False, emoji=False), Table("metric")
    table.add_column("value", justify="right")
    table.add_column("of")
    for images, values in parts:
        for name, value in values.items():
            if not isinstance(value, list):
                table.add_row(
                    name, f"{value:,.4g}", "real images, or shuffled latents" if name.endswith("_floor") else images
                )
    if table.row_count:
        console.print(table)
    for path in (folder / "metrics.json", *grids):
        console.print(str(path), soft_wrap=True, highlight=False)
