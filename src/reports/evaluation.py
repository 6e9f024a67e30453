"""The complete evaluation of a model: metrics.json, grids of nearest neighbors, and a short table."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from src.config.validation import instantiate
from src.core.files import write_atomic
from src.core.images import save_grid, to_pillow
from src.data.datamodule import ImageDataModule
from src.evaluation.evaluator import Evaluator
from src.evaluation.from_checkpoint import load_run
from src.evaluation.given_samples import GivenSamples
from src.evaluation.memorization import MAX_SAMPLES, memorization
from src.evaluation.representation import representation
from src.models.autoencoder import EncodingModel
from src.models.checkpoint.loading import build
from src.models.inference import LatentModel

if TYPE_CHECKING:
    from src.logger.wandb import WandbLogger

Nearest = dict[str, tuple[Tensor, Tensor]]  # a network -> a grid of samples and training images, and distances


def run_evaluation(config: dict[str, Any]) -> None:
    """Evaluate what the config of src.evaluate names: open it and its images, write, and send to W&B if asked to."""
    checkpoint, samples, data, reference = (config[name] for name in ("checkpoint", "samples", "data", "reference"))
    if checkpoint:
        loaded = load_run(checkpoint, config["device"])
        model: LatentModel = loaded.model
        if config["wandb"]:  # before the work
            from src.logger.wandb import continue_run

            logger = continue_run(loaded.content, loaded.folder)
        images, folder = loaded.data(data, reference), loaded.folder
    else:
        model = given = GivenSamples(str(samples), config["num_images"], data, config["device"])
        config["num_images"] = len(given.images)
        whole = {"val_fraction": 0.0} if reference == "train" else {}
        images, folder = build(data | whole, "data", ImageDataModule), Path(f"{Path(samples)}-metrics")
    print(f"data: {images.source.description}", flush=True)
    networks = [instantiate(network) for network in config["metrics"]["feature_metrics"].values()]
    settings = ("num_images", "reference", "seed", "max_reference_images", "cache_dir")
    evaluator = Evaluator(model, images, networks, *(config[name] for name in settings))
    own_data = not any(value is not None for value in data.values())
    if own_data and model.default_prior == "normal":  # a fitted one is what src.sample draws from
        evaluator.fit_prior()
    folder = Path(config["output"] or folder)
    options = {name: config[name] for name in ("importance_samples", "max_bound_images", "fresh_cats")}
    facts = {"checkpoint": str(checkpoint)} if checkpoint else {"samples": str(samples)}
    written = write_evaluation(evaluator, folder, facts | {"own_data": own_data}, config["neighbors"], **options)
    if config["wandb"]:
        log_evaluation(logger, evaluator, *written)


def write_evaluation(
    evaluator: Evaluator, folder: Path, facts: dict[str, Any], neighbors: int, **options: int
) -> tuple[dict[str, Any], Nearest]:
    """Write metrics.json and neighbors_<network>.png, and print each number with what it is of. For one process only.

    facts: what else to record, as the checkpoint. neighbors: rows of a grid, 0 for none. options: of representation.
    """
    torch.manual_seed(evaluator.seed)
    parts: list[tuple[str, dict[str, Any]]] = [
        (evaluator.number_of(evaluator.unseen), evaluator.losses(evaluator.unseen)),
        (f"{evaluator.num_images:,} samples", evaluator.sample_metrics()),
    ]
    nearest: Nearest = {}
    paths = [folder / "metrics.json"]
    for metrics in evaluator.feature_metrics if neighbors else ():
        values, grid, distances = memorization(evaluator, metrics, neighbors)
        nearest[metrics.features.name] = grid, distances
        paths.append(folder / f"neighbors_{metrics.features.name}.png")
        save_grid(grid, paths[-1], distances.shape[1] + 2)
        parts.append((f"{min(evaluator.num_images, MAX_SAMPLES):,} samples, or held-out images", values))
    if isinstance(evaluator.model, EncodingModel):
        parts += representation(evaluator, evaluator.model, **options)
    facts = facts | {
        "num_images": evaluator.num_images,
        "seed": evaluator.seed,
        "reference": evaluator.reference,
        "num_reference_images": len(evaluator.data.images(evaluator.reference, evaluator.max_reference_images)),
        "losses_of": evaluator.number_of(evaluator.unseen),
        "data": evaluator.data.source.description,
        "images_seen": evaluator.model.images_seen,
    }
    results = {name: value for _, values in parts for name, value in values.items()}
    write_atomic(paths[0], json.dumps(results | facts, indent=2) + "\n")
    console, table = Console(markup=False, emoji=False), Table("metric", Column("value", justify="right"), "of")
    for images, values in parts:
        for name, value in values.items():
            if not isinstance(value, list):
                of = "real images, or shuffled latents" if name.endswith("_floor") else images
                table.add_row(name, f"{value:,.4g}", of)
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
