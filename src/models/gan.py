"""The generative adversarial network (Goodfellow et al., 2014): a generator trained against a discriminator."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.schedules import Schedule, as_schedule
from src.core.types import Fraction, PositiveInt
from src.models.adversarial import AdversarialModel, measure
from src.models.base import OptimizerFactory


class GAN(AdversarialModel):
    """A GAN: each step trains the discriminator on real and generated images, then the generator.

    discriminator_steps: discriminator updates per generator update, each on a batch of its own.
    beta2: replaces the second beta of both optimizers.
    compile_networks: use torch.compile, from the first step.
    options: of AdversarialModel, and learning_rate_factor and channels_last of GenerativeModel.
    """

    inference_parts: ClassVar = {"decoder": "generator_ema"}

    def __init__(
        self,
        generator: nn.Module,
        generator_optimizer: OptimizerFactory,
        latent_dim: PositiveInt,
        discriminator_steps: PositiveInt = 1,
        beta2: Fraction | Schedule | None = None,
        compile_networks: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.compile_networks = compile_networks
        self.generator = generator.to(memory_format=self.memory_format)
        self.generator_ema = copy.deepcopy(generator).requires_grad_(False)
        self.generator_optimizer, self.latent_dim = generator_optimizer, latent_dim
        self.discriminator_steps = discriminator_steps
        if beta2 is not None:
            self.scheduled["beta2"] = as_schedule(beta2)

    def decode(self, latents: Tensor) -> Tensor:
        return self.generator_ema(latents).clamp(-1, 1)

    def generate(self, real: Tensor) -> Tensor:
        """Generate one image for each real one, in their precision: (N, 3, H, W) -> (N, 3, H, W)."""
        latents = torch.randn(len(real), self.latent_dim, device=real.device, dtype=real.dtype)
        return self.generator(latents).to(real.dtype)

    def training_step(self, real: Tensor, batch_idx: int) -> dict[str, Tensor | float]:
        real = real.contiguous(memory_format=self.memory_format)
        scheduled = self.apply_schedules()
        generator_optimizer, discriminator_optimizer = self.optimizers()  # type: ignore[attr-defined]
        batch_images = len(real) * self.trainer.world_size
        step = self.images_seen // batch_images
        trains_generator = (step + 1) % self.discriminator_steps == 0
        with torch.set_grad_enabled(trains_generator):
            fake = self.generate(real)
        scalars = self.train_discriminator(discriminator_optimizer, real, fake, step)

        if trains_generator:
            # The images that the discriminator was just trained on: generating others would cost a sixth of a step.
            loss = self.generator_loss(real, fake).mean()
            self.take_step(generator_optimizer, loss)
            self.update_average(self.generator_ema, self.generator, batch_images, self.discriminator_steps)
            scalars |= {
                "generator_loss": loss.detach(),
                "generator_learning_rate": generator_optimizer.param_groups[0]["lr"],
                **measure(step // self.discriminator_steps, "generator", self.generator, self.generator_ema),
            }
        self.count_images(real)
        return scalars | scheduled

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = [
            self.generator_optimizer(self.generator.parameters()),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]
        for optimizer in optimizers:
            if "beta2" in self.scheduled and "betas" not in optimizer.defaults:
                raise UserError(f"model.beta2: {type(optimizer).__name__} has no beta2; leave it out, or take Adam")
        return optimizers

    def on_fit_start(self) -> None:
        if self.compile_networks:
            self.generator.compile()
            self.discriminator.compile()
