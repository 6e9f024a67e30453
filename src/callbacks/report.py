"""The one way to the loggers: scalars and images against the images seen."""

import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor


def log_metrics(trainer: Trainer, metrics: dict[str, float], images_seen: int) -> None:
    """To every logger, and to trainer.callback_metrics, where other callbacks look. Call it on all ranks."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics({"images_seen": images_seen, **metrics}, step=images_seen)


def log_image(trainer: Trainer, name: str, image: Tensor, images_seen: int) -> None:
    """uint8 (3, H, W) to the loggers that take images."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(name, [image.permute(1, 2, 0).numpy()], images_seen=images_seen)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, images_seen)
