"""`python -m src.evaluate checkpoint=RUN`: evaluates a model, or the images of a folder, by real images."""

from typing import Any, Literal

from src.config.cli import run
from src.config.validation import check_value
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
    config = locals()
    if (checkpoint is None) == (samples is None):
        raise UserError("give either checkpoint=RUN, or samples=FOLDER and the images to compare them with, data=...")
    if samples and wandb:
        raise UserError("wandb=true continues the W&B run of a checkpoint, and samples=... have none; leave one out")
    if neighbors and not metrics["feature_metrics"]:
        raise UserError(f"neighbors={neighbors} are found by the features of a metric; leave out metrics=none")
    if data.get("root") and "_target_" not in data:
        check_value("data.root", data["root"], ImagesPath)

    from src.reports.evaluation import run_evaluation

    run_evaluation(config)


if __name__ == "__main__":
    run(evaluate)
