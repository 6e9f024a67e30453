"""`python -m src.sample checkpoint=P num_images=16 seed=0 output=DIR`: writes 00000.png ... and grid.png."""

from typing import Literal

from src.config.cli import run
from src.core.types import CheckpointPath, OutputPath, PositiveInt, Seed

MOST_ON_GRID = 256


def sample(
    checkpoint: CheckpointPath,
    num_images: PositiveInt,
    seed: Seed,
    output: OutputPath,
    batch_size: PositiveInt,
    prior: Literal["normal", "mixture"],
    device: Literal["auto", "cpu", "cuda", "mps"],
) -> None:
    """Draws num_images images of a checkpoint's model; the same seed gives the same ones as src.evaluate."""
    import math
    from pathlib import Path

    from torch import Tensor

    from src.core.image_files import save_grid, save_image
    from src.evaluation.from_checkpoint import load_run

    model = load_run(checkpoint, device).model
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    on_grid: list[Tensor] = []
    images = (image for batch in model.sample_uint8(num_images, seed, batch_size, prior) for image in batch)
    for index, image in enumerate(images):
        save_image(image, folder / f"{index:05d}.png")
        on_grid += [image] if index < MOST_ON_GRID else []
    save_grid(on_grid, folder / "grid.png", columns=math.ceil(math.sqrt(len(on_grid))))
    print(f"{num_images} images in {folder}, {len(on_grid)} of them on {folder / 'grid.png'}")


if __name__ == "__main__":
    run(sample)
