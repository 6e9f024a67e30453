"""Two networks compete (Goodfellow et al., 2014): the discriminator tells, the generator fools."""

import copy

import torch
from torch import Tensor, nn

from src.data.augmentation import Augmentation
from src.models.ema import update_ema
from src.models.generative_model import GenerativeModel, OptimizerFactory
from src.objectives.adversarial import AdversarialLoss
from src.objectives.gradient_penalty import GradientPenalty
from src.schema import NonNegativeFloat, PositiveFloat, PositiveInt


class GAN(GenerativeModel):
    """Each step: the discriminator on real and generated pictures, then the generator.

    discriminator_steps: discriminator updates to one of the generator, each on a batch of its own.
    ema_halflife_images: memory of the averaged generator, which makes all pictures shown and judged; it is shorter
    at first, ema_rampup times the images seen (Karras et al., 2020). 0: no averaging. augmentation: what the
    discriminator sees of pictures, real and generated; gradient penalties are those of the pictures before it.
    """

    ddp_strategy = "ddp_find_unused_parameters_true"

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
        ema_halflife_images: NonNegativeFloat = 10_000.0,
        ema_rampup: PositiveFloat = 0.05,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.generator_ema = copy.deepcopy(generator).requires_grad_(False)
        self.adversarial_loss, self.gradient_penalty = adversarial_loss, gradient_penalty
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.latent_dim = latent_dim
        self.discriminator_steps = discriminator_steps
        self.ema_halflife_images, self.ema_rampup = ema_halflife_images, ema_rampup
        self.augmentation = augmentation

    def decode(self, latents: Tensor) -> Tensor:
        return self.generator_ema(latents)

    def generate(self, like: Tensor) -> Tensor:
        """As many new pictures as `like` has, from noise of this process."""
        latents = torch.randn(len(like), self.latent_dim, device=like.device, dtype=like.dtype)
        return self.generator(latents).to(like.dtype)

    def judge(self, images: Tensor) -> Tensor:
        """Logits (N,), in the pictures' precision whatever the network computes in."""
        seen = images if self.augmentation is None else self.augmentation(images, self.images_seen)
        return self.discriminator(seen).to(images.dtype)

    def training_step(self, real: Tensor, batch_idx: int) -> dict[str, Tensor]:
        step = self.images_seen // (len(real) * self.trainer.world_size)
        losses = self.discriminator_step(real, step)
        if (step + 1) % self.discriminator_steps == 0:
            losses |= self.generator_step(real)
        self.count_images(real)
        return losses

    def discriminator_step(self, real: Tensor, step: int) -> dict[str, Tensor]:
        _, optimizer = self.optimizers()  # type: ignore[attr-defined]
        with torch.no_grad():
            fake = self.generate(real)

        penalize = self.gradient_penalty.due(step)
        real, fake = real.detach().requires_grad_(penalize), fake.requires_grad_(penalize)
        real_logits, fake_logits = self.judge(real), self.judge(fake)
        adversarial = self.adversarial_loss.discriminator(real_logits, fake_logits).mean()
        loss, penalties = adversarial, {}
        if penalize:
            penalties = self.gradient_penalty(self.judge, real, fake, real_logits, fake_logits)
            loss = loss + self.gradient_penalty.total(penalties)

        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        adapted = self.augmentation.update(real_logits, fake_logits, self.images_seen) if self.augmentation else {}
        return {
            "discriminator_loss": adversarial.detach(),
            "real_logits": real_logits.detach().mean(),
            "fake_logits": fake_logits.detach().mean(),
            **{name: values.detach().mean() for name, values in penalties.items()},
            **adapted,
        }

    def generator_step(self, real: Tensor) -> dict[str, Tensor]:
        optimizer, _ = self.optimizers()  # type: ignore[attr-defined]
        # The discriminator only passes gradients on; its own weights gather none.
        self.discriminator.requires_grad_(False)
        with torch.no_grad():
            real_logits = self.judge(real)
        fake_logits = self.judge(self.generate(real))
        loss = self.adversarial_loss.generator(real_logits, fake_logits).mean()

        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.discriminator.requires_grad_(True)

        num_images = len(real) * self.trainer.world_size * self.discriminator_steps
        seen_by_now = self.images_seen + len(real) * self.trainer.world_size
        halflife = min(self.ema_halflife_images, self.ema_rampup * seen_by_now)
        update_ema(self.generator_ema, self.generator, num_images, halflife)
        return {"generator_loss": loss.detach()}

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            self.generator_optimizer(self.generator.parameters()),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]
