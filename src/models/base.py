"""The base class of all models: it samples images from latents and counts progress in images."""

import time
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, NoReturn

import torch
from lightning import LightningModule
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.schedules import Schedule, as_schedule
from src.core.types import NonNegativeFloat
from src.models.checkpoint.states import check_optimizer
from src.models.inference import LatentModel

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class GenerativeModel(LatentModel, LightningModule):
    """A model of images (N, 3, H, W) in [-1, 1] that it decodes from latents (N, latent_dim), with its training.

    learning_rate_factor: multiplies the learning rate of each optimizer.
    channels_last: the memory layout of images and weights; faster on a CPU, and on a GPU in bf16.
    """

    # The Lightning strategy for a run of several ranks.
    ddp_strategy: Literal["ddp", "ddp_find_unused_parameters_true"] = "ddp"
    # The part of the run's config that its checkpoints hold; see portable_config.
    config: dict[str, Any]
    # The parts of an InferenceModel, by name, and the attribute of this model that each of them is.
    inference_parts: ClassVar[dict[str, str]] = {}
    # time.perf_counter() when training last continued. Evaluations, images and checkpoints are not training time.
    training_since: float = 0.0
    # time.process_time() at that moment.
    training_cpu_since: float = 0.0

    def __init__(self, learning_rate_factor: NonNegativeFloat | Schedule = 1.0, channels_last: bool = False) -> None:
        super().__init__()
        # Values that change over the run, by the names they are logged under; see apply_schedules.
        self.scheduled = {"learning_rate_factor": as_schedule(learning_rate_factor)}
        self.encoder = self.mixture = None
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def inference_config(self) -> dict[str, Any]:
        """Return the config of the InferenceModel that samples and encodes as this model does."""
        names = {part: attribute.removesuffix("_ema") for part, attribute in self.inference_parts.items()}
        parts = {part: self.config["model"][name] for part, name in names.items() if name in self.config["model"]}
        return {
            "_target_": "src.models.inference.InferenceModel",
            **parts,
            "latent_dim": self.latent_dim,
            "head_outputs": self.head.out_features if self.encoder is not None else 0,
            "mixture_components": len(self.mixture.weights) if self.mixture is not None else 0,
            "channels_last": self.memory_format == torch.channels_last,
        }

    def broadcast_buffers(self) -> None:
        """Copy rank zero's buffers, such as batch normalization's running statistics, to all ranks."""
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def apply_schedules(self) -> dict[str, float]:
        """Return the current value of each schedule, to be logged; every training step begins with it.

        `learning_rate_factor` multiplies the learning rate in each optimizer's config, `beta2` replaces the second
        beta of Adam. All values are functions of the images seen, or of a state in the checkpoint
        (TargetKL), so a resumed run continues them.
        """
        now = {name: schedule(self.images_seen) for name, schedule in self.scheduled.items()}
        optimizers = self.optimizers(use_pl_optimizer=False)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * now["learning_rate_factor"]
                if "beta2" in now and "betas" in group:
                    group["betas"] = (group["betas"][0], now["beta2"])
        return now

    def count_images(self, images: Tensor) -> None:
        """Add this rank's batch (N, ...), and as much for each other rank; every training step ends with it."""
        self.images_seen += len(images) * self.trainer.world_size

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            check_optimizer(optimizer)
        self.on_train_batch_end()

    def on_train_batch_end(self, *args: Any) -> None:
        # Lightning calls the module's hook after those of the callbacks.
        self.training_since, self.training_cpu_since = time.perf_counter(), time.process_time()

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise UserError: Lightning would need the networks, which the checkpoint's config describes."""
        raise UserError(
            f"call src.evaluation.from_checkpoint.load_run({str(checkpoint_path)!r}).model instead of "
            f"{cls.__name__}.load_from_checkpoint: it builds the model from the checkpoint's config"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["images_seen"] = self.images_seen
        checkpoint["config"] = self.config
        checkpoint["inference"] = {"config": self.inference_config(), "parts": self.inference_parts}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = checkpoint["images_seen"]
