"""The base class of all models: it samples images from latents and counts progress in images."""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NoReturn

import torch
from lightning import LightningModule
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.images import to_uint8
from src.core.schedules import Schedule, as_schedule
from src.core.types import NonNegativeFloat
from src.models.priors import Prior

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
DECODE_BATCH_SIZE = 32


class GenerativeModel(LightningModule):
    """A model of images (N, 3, H, W) in [-1, 1] that it decodes from latents (N, latent_dim).

    learning_rate_factor: multiplies the learning rate of each optimizer.
    channels_last: the memory layout of images and weights; faster on a CPU, and on a GPU in bf16.
    """

    latent_dim: int
    # Images that all ranks together have trained on: the unit of every schedule, interval and axis.
    images_seen: int = 0
    # The Lightning strategy for a run of several ranks.
    ddp_strategy: Literal["ddp", "ddp_find_unused_parameters_true"] = "ddp"
    # The part of the run's config that its checkpoints hold; see portable_config.
    config: dict[str, Any]
    # time.perf_counter() when training last continued. Evaluations, images and checkpoints are not training time.
    training_since: float = 0.0
    # time.process_time() at that moment.
    training_cpu_since: float = 0.0

    def __init__(self, learning_rate_factor: NonNegativeFloat | Schedule = 1.0, channels_last: bool = False) -> None:
        super().__init__()
        # Values that change over the run, by the names they are logged under; see apply_schedules.
        self.scheduled = {"learning_rate_factor": as_schedule(learning_rate_factor)}
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    @property  # type: ignore[misc]
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.parameters()).dtype

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of latents: (N, latent_dim) -> (N, 3, H, W) in [-1, 1]."""

    def evaluation_losses(self, images: Tensor) -> dict[str, Tensor]:
        """Return the losses to evaluate on held-out images (N, 3, H, W), one value per image: (N,) each."""
        return {}

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """Return the decoded latents of images, (N, 3, H, W) in [-1, 1], or None if the model has no encoder."""
        return None

    def priors(self) -> list[Prior]:
        """Return the distributions that latents can be sampled from, the model's own first."""
        return ["normal"]

    @torch.no_grad()
    def sample(
        self,
        num_images: int,
        generator: torch.Generator | None = None,
        prior: Prior = "normal",
        temperature: float = 1.0,
    ) -> Tensor:
        """Return new images, (num_images, 3, H, W) in [-1, 1], decoded from latents of the prior.

        Latents are sampled image by image on the CPU, so a generator gives the same images on every device and for
        every split into calls. Raises UserError if the model does not have the prior.
        """
        return self.decode(self.sample_prior(num_images, generator, prior, temperature).to(self.device, self.dtype))

    def sample_prior(
        self, num_images: int, generator: torch.Generator | None, prior: Prior = "normal", temperature: float = 1.0
    ) -> Tensor:
        """Return latents (num_images, latent_dim) in float32 on the CPU, sampled one after the other.

        temperature: multiplies the standard deviations; below 1 the images are more typical and less varied. Raises
        UserError if the model does not have the prior.
        """
        if prior not in self.priors():
            raise UserError(f"this model has no prior={prior}; give prior={' or '.join(self.priors())}")
        latents = [torch.randn(self.latent_dim, generator=generator, dtype=torch.float32) for _ in range(num_images)]
        return temperature * torch.stack(latents)

    def sample_uint8(
        self, num_images: int, seed: int, batch_size: int, prior: Prior = "normal", temperature: float = 1.0
    ) -> Iterator[Tensor]:
        """Yield images 0 to num_images - 1 of a seed and a prior, in batches of uint8 (batch_size, 3, H, W).

        The bytes of an image do not depend on num_images and batch_size. Sums are rounded differently in batches of
        different sizes, so images are always decoded in batches of DECODE_BATCH_SIZE, at the same positions.
        """
        generator = torch.Generator().manual_seed(seed)
        rest: list[Tensor] = []
        for start in range(0, num_images, DECODE_BATCH_SIZE):
            latents = self.sample_prior(min(DECODE_BATCH_SIZE, num_images - start), generator, prior, temperature)
            filled = torch.cat([latents, latents.new_zeros(DECODE_BATCH_SIZE - len(latents), self.latent_dim)])
            with torch.no_grad():
                images = to_uint8(self.decode(filled.to(self.device, self.dtype)))[: len(latents)]
            *batches, last = torch.cat([*rest, images]).split(batch_size)
            yield from batches
            rest = [last]
        yield from rest

    def broadcast_buffers(self) -> None:
        """Copy rank zero's buffers, such as batch normalization's running statistics, to all ranks."""
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def apply_schedules(self) -> dict[str, float]:
        """Return the current value of each schedule, to be logged; every training step begins with it.

        `learning_rate_factor` multiplies the learning rate in each optimizer's config, `beta2` replaces the second
        beta of Adam. All values are functions of the images seen, so a resumed run continues them.
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
        # torch would notice too late.
        for optimizer in self.trainer.optimizers:
            for weight, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.ndim and value.shape != weight.shape:
                        raise UserError(
                            f"the checkpoint's optimizer has a state {name} of shape {list(value.shape)} for a weight "
                            f"of shape {list(weight.shape)}; give another checkpoint"
                        )
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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = checkpoint["images_seen"]
