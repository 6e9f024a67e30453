"""`python -m src.evaluate checkpoint=RUN`: evaluates a model on its own data or other images."""

from typing import Any, Literal

from src.config.cli import run
from src.config.validation import check_value, instantiate
from src.core.types import CheckpointPath, FolderPath, ImagesPath, NonNegativeInt, OutputPath, PositiveInt, Seed


def evaluate(
    checkpoint: CheckpointPath,
    num_images: PositiveInt,
    seed: Seed,
    reference: Literal["train", "val"],
    output: OutputPath | None,
    neighbors: NonNegativeInt,
    max_reference_images: PositiveInt,
    cache_dir: FolderPath | None,
    batch_size: PositiveInt,
    importance_samples: PositiveInt,
    max_bound_images: PositiveInt,
    wandb: bool,
    device: Literal["auto", "cpu", "cuda", "mps"],
    data: dict[str, Any],
    metrics: dict[str, Any],
) -> None:
    """Write metrics.json: losses on the reference images, not augmented, and metrics of num_images samples.

    neighbors: also a grid of so many samples with their nearest training images. wandb: the W&B run gets both.
    """
    if data.get("root") and "_target_" not in data:
        check_value("data.root", data["root"], ImagesPath)

    from pathlib import Path

    from src.evaluation.evaluator import Evaluator
    from src.evaluation.from_checkpoint import load_run
    from src.reports.evaluation import log_evaluation, write_evaluation

    loaded = load_run(checkpoint, device)
    if wandb:  # before the work
        from src.logger.wandb import continue_run

        logger = continue_run(loaded.content, loaded.folder)
    images = loaded.data(data, reference)
    print(f"data: {images.source.description}", flush=True)
    networks = [instantiate(network) for network in metrics["feature_metrics"].values()]
    evaluator = Evaluator(
        loaded.model, images, networks, num_images, reference, seed, batch_size, max_reference_images, cache_dir
    )
    if not any(value is not None for value in data.values()):
        evaluator.fit_prior()  # to the run's own training images
    folder = Path(output) if output else loaded.folder
    written = write_evaluation(evaluator, folder, checkpoint, neighbors, importance_samples, max_bound_images)
    if wandb:
        log_evaluation(logger, evaluator, *written)


if __name__ == "__main__":
    run(evaluate)
