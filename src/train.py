"""`python -m src.train model=gan trainer.devices=2`: trains a model; --help lists what can be chosen."""

from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from src.config.cli import run
from src.core.errors import UserError
from src.core.types import CheckpointPath, ObjectConfig, OutputPath, PositiveFloat, PositiveInt, Seed

RUN_DIR_OPTIONS = ("run_dir=", "hydra.run.dir=", "hydra.sweep.dir=")


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
    config, overrides = locals(), HydraConfig.get().overrides
    if resume == "last" and not any(item.startswith(RUN_DIR_OPTIONS) for item in [*overrides.task, *overrides.hydra]):
        raise UserError("resume=last goes on in the folder of a run; add run_dir=RUN")
    from src.training.launcher import start

    start(config, list(overrides.task), always_apart=HydraConfig.get().mode == RunMode.MULTIRUN)


if __name__ == "__main__":
    run(train)
