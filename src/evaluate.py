"""`python -m src.evaluate checkpoint=RUN`: evaluates a model, or the images of a folder, by real images."""

from typing import Any, Literal

from src.config.cli import run
from src.config.validation import check_value, instantiate
from src.core.errors import UserError
from src.core.types import CheckpointPath, FolderPath, ImagesPath, NonNegativeInt, OutputPath, PositiveInt, Seed


def evaluate(
    checkpoint: CheckpointPath | None,
    samples: ImagesPath | None,
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
    fresh_cats: PositiveInt,
    wandb: bool,
    device: Literal["auto", "cpu", "cuda", "mps"],
    data: dict[str, Any],
    metrics: dict[str, Any],
) -> None:
    """Write metrics.json: losses on held-out images, not augmented, and metrics of num_images samples, or given ones.

    neighbors: also a grid of so many samples with their nearest training images. wandb: the W&B run gets both.
    """
    if (checkpoint is None) == (samples is None):
        raise UserError("give either checkpoint=RUN, or samples=FOLDER and the images to compare them with, data=...")
    if samples and wandb:
        raise UserError("wandb=true continues the W&B run of a checkpoint, and samples=... have none; leave one out")
    if data.get("root") and "_target_" not in data:
        check_value("data.root", data["root"], ImagesPath)

    from pathlib import Path

    from src.evaluation.evaluator import Evaluator
    from src.evaluation.from_checkpoint import load_run
    from src.evaluation.given_samples import LoadedSamples
    from src.reports.evaluation import log_evaluation, write_evaluation

    loaded: Any = load_run(checkpoint, device) if checkpoint else LoadedSamples(str(samples), num_images, data, device)
    if wandb:  # before the work
        from src.logger.wandb import continue_run

        logger = continue_run(loaded.content, loaded.folder)
    images = loaded.data(data, reference)
    print(f"data: {images.source.description}", flush=True)
    networks = [instantiate(network) for network in metrics["feature_metrics"].values()]
    num_images = getattr(loaded.model, "num_images", num_images)  # of given samples
    evaluator = Evaluator(
        loaded.model, images, networks, num_images, reference, seed, batch_size, max_reference_images, cache_dir
    )
    if not any(value is not None for value in data.values()):
        evaluator.fit_prior()  # to the run's own training images
    folder = Path(output) if output else loaded.folder
    written = write_evaluation(
        evaluator,
        folder,
        checkpoint or samples,
        neighbors,
        importance_samples=importance_samples,
        max_bound_images=max_bound_images,
        fresh_cats=fresh_cats,
    )
    if wandb:
        log_evaluation(logger, evaluator, *written)


if __name__ == "__main__":
    run(evaluate)
