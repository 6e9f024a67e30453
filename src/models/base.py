"""What every model shares: images from latents, and progress counted in images."""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NoReturn

import torch
from lightning import LightningModule
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.images import to_uint8
from src.core.schedules import Schedule
from src.models.priors import Prior

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
DECODED_AT_ONCE = 32


class GenerativeModel(LightningModule):
    """A model of images (N, 3, H, W) in [-1, 1], decoded from latents (N, latent_dim)."""

    latent_dim: int
    # Images that all processes together have trained on; the unit of every schedule, interval and axis.
    images_seen: int = 0
    # How Lightning's DistributedDataParallel is to be set up where there is more than one process.
    ddp_strategy: Literal["ddp", "ddp_find_unused_parameters_true"] = "ddp"
    # The part of the run's config that its checkpoints hold; see portable_config.
    config: dict[str, Any]
    # What changes over the run, by the name it is logged under; see apply_schedules.
    scheduled: dict[str, Schedule]
    # When training last went on: after evaluations, images and checkpoints, which are not training time.
    training_since: float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.scheduled = {}

    @property  # type: ignore[misc]
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.parameters()).dtype

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """(N, latent_dim) -> (N, 3, H, W) in [-1, 1]."""

    def evaluation_losses(self, images: Tensor) -> dict[str, Tensor]:
        """What held-out images (N, 3, H, W) are judged by, one value per image: (N,) each. None by default."""
        return {}

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """Images through the code and back, for models that encode; None for the others."""
        return None

    def priors(self) -> list[Prior]:
        """The distributions that latents can be drawn from; the first is the model's own."""
        return ["normal"]

    @torch.no_grad()
    def sample(self, num_images: int, generator: torch.Generator | None = None, prior: Prior = "normal") -> Tensor:
        """(num_images, 3, H, W) in [-1, 1], from latents of N(0, I), or of what was fitted on the images' codes.

        The latents are drawn image by image on the CPU: a generator gives the same images on every device and
        in whatever portions they are asked for.
        """
        return self.decode(self.sample_prior(num_images, generator, prior).to(self.device, self.dtype))

    def sample_prior(self, num_images: int, generator: torch.Generator | None, prior: Prior = "normal") -> Tensor:
        """(num_images, latent_dim), one image after the other. UserError for a prior that the model has not."""
        if prior not in self.priors():
            raise UserError(f"this model has no prior={prior}; give prior={' or '.join(self.priors())}")
        latents = [torch.randn(self.latent_dim, generator=generator, dtype=torch.float32) for _ in range(num_images)]
        return torch.stack(latents)

    def sample_uint8(self, num_images: int, seed: int, batch_size: int, prior: Prior = "normal") -> Iterator[Tensor]:
        """The images 0 to num_images - 1 of a seed and a prior, in batches of uint8 (N, 3, H, W).

        The same bytes whatever num_images and batch_size: sums round differently in batches of different sizes, so
        images are always decoded DECODED_AT_ONCE at a time, in the same places.
        """
        generator = torch.Generator().manual_seed(seed)
        ready = torch.empty(0, dtype=torch.uint8)
        for start in range(0, num_images, DECODED_AT_ONCE):
            latents = self.sample_prior(min(DECODED_AT_ONCE, num_images - start), generator, prior)
            filled = torch.cat([latents, latents.new_zeros(DECODED_AT_ONCE - len(latents), self.latent_dim)])
            with torch.no_grad():
                images = to_uint8(self.decode(filled.to(self.device, self.dtype)))[: len(latents)]
            ready = torch.cat([ready, images]) if len(ready) else images
            while len(ready) >= batch_size or (len(ready) and start + DECODED_AT_ONCE >= num_images):
                yield ready[:batch_size]
                ready = ready[batch_size:]

    def broadcast_buffers(self) -> None:
        """Gives all processes the first one's buffers, such as batch normalization's running statistics."""
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def apply_schedules(self) -> dict[str, float]:
        """What each schedule says now, to be logged; every training step begins with it.

        `learning_rate_factor` multiplies the learning rate of each optimizer's config, `beta2` replaces Adam's second
        beta. Nothing is remembered: all of it follows from the images seen.
        """
        now = {name: schedule(self.images_seen) for name, schedule in self.scheduled.items()}
        optimizers = self.optimizers(use_pl_optimizer=False)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                if "learning_rate_factor" in now:
                    group["lr"] = group.setdefault("initial_lr", group["lr"]) * now["learning_rate_factor"]
                if "beta2" in now and "betas" in group:
                    group["betas"] = (group["betas"][0], now["beta2"])
        return now

    def count_images(self, images: Tensor) -> None:
        """Called at the end of every training step with this process's part of the batch."""
        self.images_seen += len(images) * self.trainer.world_size

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            refuse_foreign_state(optimizer)
        self.training_since = time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:
        # Lightning calls the module's hook after those of the callbacks.
        self.training_since = time.perf_counter()

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


def refuse_foreign_state(optimizer: torch.optim.Optimizer) -> None:
    """UserError where the state a checkpoint brought does not fit the weights; torch would notice in the first step."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != weight.shape:
                raise UserError(
                    f"the checkpoint's optimizer has a state {name} of shape {list(value.shape)} for a weight of shape "
                    f"{list(weight.shape)}; give another checkpoint"
                )
