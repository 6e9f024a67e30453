"""`python -m src.sample checkpoint=RUN output=cats`: draws images of a model, and a grid of them."""

from typing import Literal

from src.config.cli import run
from src.core.types import CheckpointPath, NonNegativeFloat, OutputPath, PositiveInt, Seed

MAX_ON_GRID = 256


def sample(
    checkpoint: CheckpointPath,
    num_images: PositiveInt,
    seed: Seed,
    output: OutputPath,
    prior: Literal["normal", "mixture"] | None,
    temperature: NonNegativeFloat,
    device: Literal["auto", "cpu", "cuda", "mps"],
    film: Literal["webp", "gif", "mp4"] | None = None,
    frames: PositiveInt = 16,
    scale: Literal["nearest", "bicubic"] | None = None,
) -> None:
    """Draw num_images images of a checkpoint's model; the same seed gives the same ones as src.evaluate."""
    import math
    import re
    from pathlib import Path

    import torch

    from src.core.images import save_grid, to_pillow
    from src.evaluation.from_checkpoint import load_run

    model, folder, on_grid = load_run(checkpoint, device).inference, Path(output).absolute(), []
    folder.mkdir(parents=True, exist_ok=True)
    prior = prior or model.default_prior
    batches = model.sample_uint8(num_images, seed, prior, temperature)
    for index, image in enumerate(image for batch in batches for image in batch):
        to_pillow(image).save(folder / f"{index:05d}.png")
        on_grid += [image] if index < MAX_ON_GRID else []
    # What an earlier, longer call left would count as images of this one.
    for path in folder.glob("*.png"):
        if re.fullmatch("[0-9]{5}|[1-9][0-9]{5,}", path.stem) and int(path.stem) >= num_images:
            path.unlink()
    grid = folder.with_name(f"{folder.name}.png")
    save_grid(on_grid, grid, columns=math.ceil(math.sqrt(len(on_grid))))
    print(f"{num_images} images (prior={prior}) in {folder}, {len(on_grid)} of them on {grid}")
    if film:
        from src.core.files import write_atomic
        from src.core.films import film_bytes
        from src.evaluation.latent_space import closed_path, decode, spherical

        stops = model.sample_prior(num_images, torch.Generator().manual_seed(seed), prior, temperature)
        images = list(decode(model, torch.stack(list(closed_path(stops, spherical, frames)))))
        write_atomic(folder.with_name(f"{folder.name}.{film}"), film_bytes(images, film, scale))
        print(f"a film through them and back to the first: {folder.with_name(f'{folder.name}.{film}')}")


if __name__ == "__main__":
    run(sample)
