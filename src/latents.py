"""`python -m src.latents checkpoint=RUN`: shows the latent space of a model in images."""

from typing import Any, Literal

from src.config.cli import run
from src.config.validation import check_value
from src.core.errors import UserError
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
    animation: Literal["webp", "gif", "mp4"],
    scale: Literal["nearest", "bicubic"] | None,
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
        try:
            source = loaded.data(data, reference)
            images = source.images(reference)
            print(f"data: {source.source.description}", flush=True)
        except UserError as error:
            if any(value is not None for value in data.values()):
                raise
            print(f"no map and no interpolations between real images, which are not here: {error}", flush=True)
    folder = Path(output) if output else no_link(loaded.folder / "latents")
    options = (num_images, num_directions, paths, steps, map, map_cells, animation, scale, frames, seed)
    LatentImages(loaded.inference, folder, *options).write(images, checkpoint)


if __name__ == "__main__":
    run(latents)
