"""`python -m src.latents checkpoint=RUN`: shows the latent space of a model in images."""

from typing import Any, Literal

from src.config.cli import run
from src.config.validation import check_value
from src.core.types import CheckpointPath, ImagesPath, OutputPath, PositiveInt, Seed


def latents(
    checkpoint: CheckpointPath,
    reference: Literal["train", "val"],
    num_images: PositiveInt,
    num_directions: PositiveInt,
    paths: PositiveInt,
    steps: PositiveInt,
    map: Literal["pca", "tsne"],
    map_cells: PositiveInt,
    animation: Literal["webp", "gif", "apng"],
    frames: PositiveInt,
    seed: Seed,
    output: OutputPath | None,
    device: Literal["auto", "cpu", "cuda", "mps"],
    data: dict[str, Any],
) -> None:
    """Write traversals, interpolations and, for models that encode, a map; latents.json says what each file shows."""
    if data.get("root") and "_target_" not in data:
        check_value("data.root", data["root"], ImagesPath)

    from pathlib import Path

    from src.core.run_folder import no_link
    from src.evaluation.from_checkpoint import load_run
    from src.reports.latents import LatentImages

    loaded, images = load_run(checkpoint, device), None
    if loaded.inference.encoder is not None:
        source = loaded.data(data, reference)
        print(f"data: {source.source.description}", flush=True)
        images = source.images(reference)
    folder = Path(output) if output else no_link(loaded.folder / "latents")
    options = (num_images, num_directions, paths, steps, map, map_cells, animation, frames, seed)
    LatentImages(loaded.inference, folder, *options).write(images, checkpoint)


if __name__ == "__main__":
    run(latents)
