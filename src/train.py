"""`python -m src.train model=gan trainer.devices=2`: trains a model; --help lists what can be chosen."""

from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from src.config.cli import run
from src.core.errors import UserError
from src.core.run_folder import has_checkpoints
from src.core.types import CheckpointPath, FolderPath, ObjectConfig, PositiveInt, Seed

FOLDERS = ("run_dir=", "hydra.run.dir=", "hydra.sweep.dir=")


def train(
    max_images: PositiveInt,
    seed: Seed,
    resume: CheckpointPath | Literal["last"] | None,
    run_dir: FolderPath,
    checkpoint: dict[str, Any],
    model: ObjectConfig,
    data: ObjectConfig,
    trainer: ObjectConfig,
    metrics: dict[str, Any],
    callbacks: dict[str, Any],
    logger: dict[str, Any],
) -> None:
    """Trains until all processes together have seen max_images; see conf/train.yaml."""
    config = locals()
    typed = list(HydraConfig.get().overrides.task)
    folders = [*typed, *HydraConfig.get().overrides.hydra]
    if resume == "last" and not any(item.startswith(FOLDERS) for item in folders):
        raise UserError("resume=last goes on in the folder of a run; add run_dir=RUN")
    if not resume and has_checkpoints(Path(run_dir)):
        raise UserError(f"run_dir={run_dir} holds a run; add resume=last to go on with it, or give another folder")
    if resume:
        from src.training.resume import resumed_config

        config = resumed_config(config, typed)
    from src.core.ranks import get_rank_info
    from src.training.launcher import launch

    here = get_rank_info()
    if not here or here.rank == 0:
        print(f"run folder: {run_dir}", flush=True)
    launch(config, always_apart=HydraConfig.get().mode == RunMode.MULTIRUN)


if __name__ == "__main__":
    run("train", train)
