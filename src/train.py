"""`python -m src.train model=gan trainer.devices=2`: trains a model; --help lists what can be chosen."""

from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from src.config.cli import run
from src.core.types import CheckpointPath, ObjectConfig, OutputPath, PositiveFloat, PositiveInt, Seed


def train(
    max_images: PositiveInt,
    budget_cpu_s: PositiveFloat | None,
    budget_s: PositiveFloat | None,
    seed: Seed,
    resume: CheckpointPath | Literal["last"] | None,
    init_from: CheckpointPath | None,
    run_dir: OutputPath,
    model: ObjectConfig,
    data: ObjectConfig,
    trainer: ObjectConfig,
    metrics: dict[str, Any],
    callbacks: dict[str, Any],
    logger: dict[str, Any],
) -> None:
    """Train until all ranks together have seen max_images; see conf/train.yaml."""
    config = locals()
    from src.training.launcher import start

    start(config, list(HydraConfig.get().overrides.task), always_apart=HydraConfig.get().mode == RunMode.MULTIRUN)


if __name__ == "__main__":
    run(train)
