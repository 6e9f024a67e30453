"""`python -m src.train model=gan trainer.devices=2`: trains a model; --help lists what can be chosen."""

from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from src.cli import run
from src.schema import CheckpointPath, Chosen, NewFolder, PositiveInt, Seed


def train(
    max_images: PositiveInt,
    seed: Seed,
    resume: CheckpointPath | None,
    run_dir: NewFolder,
    model: Chosen,
    data: Chosen,
    trainer: Chosen,
    metrics: dict[str, Any],
    callbacks: dict[str, Any],
    logger: dict[str, Any],
) -> None:
    """Trains until all processes together have seen max_images; see conf/train.yaml."""
    config = locals()
    if resume:
        from src.checkpoint import read_checkpoint, with_recipe_of

        config = with_recipe_of(read_checkpoint(resume), config, typed=list(HydraConfig.get().overrides.task))
    from src.cluster import place
    from src.launch import launch

    here = place()
    if not here or here.rank == 0:
        print(f"run folder: {run_dir}", flush=True)
    launch(config, always_apart=HydraConfig.get().mode == RunMode.MULTIRUN)


if __name__ == "__main__":
    run("train", train)
