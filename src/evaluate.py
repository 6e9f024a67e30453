"""`python -m src.evaluate checkpoint=P`: judges a model against its own data or other, writes metrics.json."""

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
    device: Literal["auto", "cpu", "cuda", "mps"],
    data: dict[str, Any],
    metrics: dict[str, Any],
) -> None:
    """Losses on the reference images and metrics of num_images samples; the images are not augmented. With
    neighbors, a grid of so many samples beside their nearest training images, and how near they are."""
    if data.get("root") and "_target_" not in data:
        check_value("data.root", data["root"], ImagesPath)

    import json
    from itertools import product
    from pathlib import Path

    import torch

    from src.core.image_files import save_grid
    from src.evaluation.evaluator import fit_prior, judge_losses, judge_samples
    from src.evaluation.from_checkpoint import load_run
    from src.evaluation.memorization import NEIGHBOURS, judge_generalization
    from src.evaluation.representation import Limits, judge_codes
    from src.models.autoencoder import EncodingModel

    run = load_run(checkpoint, device)
    model = run.model
    images = run.data(data, reference)
    images_are_its_own = not any(value is not None for value in data.values())
    print(f"data: {images.source.description}", flush=True)
    torch.manual_seed(seed)
    results = judge_losses(model, images, reference, max_reference_images)
    if images_are_its_own:
        fit_prior(model, images)
    networks = [instantiate(network) for network in metrics["feature_metrics"].values()]
    for network, prior in product(networks, model.priors()):
        results |= judge_samples(
            model, images, network, num_images, reference, seed, batch_size, cache_dir, max_reference_images, prior
        )
    grids = {}
    if neighbors:
        for network in networks:
            values, grids[network.features.name] = judge_generalization(
                model, images, network, num_images, seed, batch_size, max_reference_images, neighbors
            )
            results |= values
    if isinstance(model, EncodingModel):
        limits = Limits(min(num_images, max_reference_images), max_bound_images, importance_samples)
        results |= judge_codes(model, images, reference, networks, limits, seed, cache_dir, max_reference_images)
    report = {
        **results,
        "num_images": num_images,
        "seed": seed,
        "reference": reference,
        "num_reference_images": len(images.images(reference, max_reference_images)),
        "data": images.source.description,
        "checkpoint": checkpoint,
        "images_seen": model.images_seen,
    }
    folder = Path(output) if output else run.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, grid in grids.items():
        save_grid(grid, folder / f"neighbours_{name}.png", NEIGHBOURS + 2)
    text = json.dumps(report, indent=2)
    (folder / "metrics.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    run(evaluate)
