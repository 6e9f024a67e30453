"""`python -m src.sample checkpoint=P num_images=16 seed=0 output=DIR`: writes 00000.png ... and grid.png."""

from src.cli import run
from src.schema import CheckpointPath, NewFolder, PositiveInt, Seed


def sample(
    checkpoint: CheckpointPath,
    num_images: PositiveInt,
    seed: Seed,
    output: NewFolder,
    batch_size: PositiveInt,
) -> None:
    """Draws num_images pictures of a checkpoint's model; the same seed gives the same ones as src.evaluate."""
    import math
    from pathlib import Path

    from src.checkpoint import load_model, read_checkpoint
    from src.pictures import save_grid, save_picture

    model = load_model(read_checkpoint(checkpoint))
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [picture for batch in model.sample_uint8(num_images, seed, batch_size) for picture in batch]
    for index, picture in enumerate(pictures):
        save_picture(picture, folder / f"{index:05d}.png")
    save_grid(pictures, folder / "grid.png", columns=math.ceil(math.sqrt(num_images)))
    print(f"{num_images} pictures in {folder}, all of them on {folder / 'grid.png'}")


if __name__ == "__main__":
    run("sample", sample)
