"""The generative adversarial network (Goodfellow et al., 2014): a generator trained against a discriminator."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.schedules import Schedule, as_schedule
from src.core.types import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from src.models.adversarial import AdversarialModel, measure
from src.models.base import OptimizerFactory
from src.models.ema import update_ema
from src.networks.augmentation import Augmentation
from src.objectives.adversarial import AdversarialLoss
from src.objectives.gradient_penalty import GradientPenalty


class GAN(AdversarialModel):
    """A GAN: each step trains the discriminator on real and generated images, then the generator.

    discriminator_steps: discriminator updates per generator update, each on a batch of its own.
    ema_halflife_images: memory of the averaged generator, which generates all images shown and evaluated; 0: no
    averaging. At first it is ema_rampup times the images seen (Karras et al., 2020); null: never, as init_from sets it.
    augmentation: transforms of real and generated images before the discriminator.
    freeze_discriminator_layers: its first layers with weights that are never trained, for fine-tuning on few images
    (FreezeD: Mo et al., 2020).
    beta2: replaces the second beta of both optimizers.
    compile_networks: use torch.compile, from the first step.
    options: learning_rate_factor and channels_last of GenerativeModel.
    """

    inference_parts: ClassVar = {"decoder": "generator_ema"}

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        adversarial_loss: AdversarialLoss,
        gradient_penalty: GradientPenalty,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        latent_dim: PositiveInt,
        discriminator_steps: PositiveInt = 1,
        ema_halflife_images: NonNegativeFloat | Schedule = 20_000.0,
        ema_rampup: PositiveFloat | None = 0.15,
        augmentation: Augmentation | None = None,
        freeze_discriminator_layers: NonNegativeInt = 0,
        beta2: Fraction | Schedule | None = None,
        compile_networks: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.compile_networks = compile_networks
        self.generator = generator.to(memory_format=self.memory_format)
        self.generator_ema = copy.deepcopy(generator).requires_grad_(False)
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.latent_dim = latent_dim
        self.discriminator_steps = discriminator_steps
        self.ema_rampup = ema_rampup
        self.scheduled["ema_halflife_images"] = as_schedule(ema_halflife_images)
        self.add_discriminator(
            discriminator, adversarial_loss, gradient_penalty, augmentation, freeze_discriminator_layers
        )
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
        step = self.images_seen // (len(real) * self.trainer.world_size)
        trains_generator = (step + 1) % self.discriminator_steps == 0
        with torch.set_grad_enabled(trains_generator):
            fake = self.generate(real)
        scalars = self.discriminator_step(real, fake, step)
        if trains_generator:
            scalars |= self.generator_step(real, fake, step // self.discriminator_steps)
        self.count_images(real)
        return scalars | scheduled

    def discriminator_step(self, real: Tensor, fake: Tensor, step: int) -> dict[str, Tensor | float]:
        """Update the discriminator on as many real as generated images, (N, 3, H, W) each; return scalars to log."""
        _, optimizer = self.optimizers()  # type: ignore[attr-defined]
        return self.train_discriminator(optimizer, real, fake, step)

    def generator_step(self, real: Tensor, fake: Tensor, step: int) -> dict[str, Tensor | float]:
        """Update the generator and its average, with as many real as generated images; return scalars to log.

        real, fake: (N, 3, H, W). The generated images are those that the discriminator was just trained on, since
        generating others would cost a sixth of a step.
        """
        optimizer, _ = self.optimizers()  # type: ignore[attr-defined]
        loss = self.generator_loss(real, fake).mean()
        self.take_step(optimizer, loss)

        batch_images = len(real) * self.trainer.world_size
        halflife = self.scheduled["ema_halflife_images"](self.images_seen)
        if self.ema_rampup:
            halflife = min(halflife, self.ema_rampup * (self.images_seen + batch_images))
        update_ema(self.generator_ema, self.generator, batch_images * self.discriminator_steps, halflife)
        return {
            "generator_loss": loss.detach(),
            "generator_learning_rate": optimizer.param_groups[0]["lr"],
            **measure(step, "generator", self.generator, self.generator_ema),
        }

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
