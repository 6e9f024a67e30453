"""`python -m src.train model=gan trainer.devices=2`: trains a model; --help lists what can be chosen."""

from typing import Any

from src.cli import run
from src.schema import ExistingPath, NonNegativeInt, PositiveInt


def train(
    max_images: PositiveInt, seed: NonNegativeInt, resume: ExistingPath | None, run_dir: str, **groups: Any
) -> None:
    """Trains until all processes together have seen max_images; see conf/train.yaml."""
    from src.launch import launch

    print(f"run folder: {run_dir}", flush=True)
    launch({"max_images": max_images, "seed": seed, "resume": resume, "run_dir": run_dir, **groups})


if __name__ == "__main__":
    run("train", train)
