"""The complete evaluation of a model: metrics.json, grids of nearest neighbors, and a short table."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from src.core.files import write_atomic
from src.core.images import save_grid, to_pillow
from src.evaluation.evaluator import Evaluator
from src.evaluation.given_samples import GivenSamples
from src.evaluation.memorization import MAX_SAMPLES, memorization
from src.evaluation.representation import representation
from src.models.autoencoder import EncodingModel

if TYPE_CHECKING:
    from src.logger.wandb import WandbLogger

Nearest = dict[str, tuple[Tensor, Tensor]]  # a network -> a grid of samples and training images, and distances


def write_evaluation(
    evaluator: Evaluator, folder: Path, evaluated: Any, neighbors: int, **options: int
) -> tuple[dict[str, Any], Nearest]:
    """Write metrics.json and neighbors_<network>.png, and print each number with what it is of. For one process only.

    evaluated: the checkpoint, or where the samples are from. neighbors: rows of a grid, 0 for none.
    options: of representation.
    """
    torch.manual_seed(evaluator.seed)
    parts: list[tuple[str, dict[str, Any]]] = [
        (evaluator.number_of(evaluator.unseen), evaluator.losses(evaluator.unseen)),
        (f"{evaluator.num_images:,} samples", evaluator.sample_metrics()),
    ]
    nearest: Nearest = {}
    for metrics in evaluator.feature_metrics if neighbors else ():
        values, grid, distances = memorization(evaluator, metrics, neighbors)
        nearest[metrics.features.name] = grid, distances
        parts.append((f"{min(evaluator.num_images, MAX_SAMPLES):,} samples, or held-out images", values))
    if isinstance(evaluator.model, EncodingModel):
        parts += representation(evaluator, evaluator.model, **options)
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
    paths = [folder / "metrics.json", *(folder / f"neighbors_{network}.png" for network in nearest)]
    for path, (grid, distances) in zip(paths[1:], nearest.values(), strict=True):
        save_grid(grid, path, distances.shape[1] + 2)
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
    for path in paths:
        console.print(str(path), soft_wrap=True, highlight=False)
    return results, nearest


def log_evaluation(logger: "WandbLogger", evaluator: Evaluator, results: dict[str, Any], nearest: Nearest) -> None:
    """Send an evaluation to a W&B run: metrics as evaluation/<reference>/<name>, and a table of nearest neighbors."""
    import wandb

    def image(pixels: Tensor) -> wandb.Image:
        return wandb.Image(to_pillow(pixels))

    prefix = f"evaluation/{evaluator.reference}/"
    values = {prefix + name: value for name, value in results.items() if not isinstance(value, list)}
    values |= {f"{prefix}num_images": evaluator.num_images, "images_seen": evaluator.model.images_seen}
    for network, (grid, distances) in nearest.items():
        names = [f"{what} {place + 1}" for place in range(distances.shape[1]) for what in ("nearest", "distance")]
        table = wandb.Table(["sample", *names])
        for (sample, _, *found), row in zip(grid.unflatten(0, (len(distances), -1)), distances.tolist(), strict=True):
            pairs = zip(map(image, found), row, strict=True)
            table.add_data(image(sample), *(cell for pair in pairs for cell in pair))
        values[f"neighbors_{network}"] = table
    logger.experiment.log(values)  # more samples may be drawn for the same images seen
    logger.finish(0)
