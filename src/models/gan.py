"""Two networks compete (Goodfellow et al., 2014): the discriminator tells, the generator fools."""

import copy

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from src.data.augmentation import Augmentation
from src.errors import UserError
from src.models.ema import relative_distance, update_ema
from src.models.generative_model import GenerativeModel, OptimizerFactory
from src.objectives.adversarial import AdversarialLoss
from src.objectives.gradient_penalty import GradientPenalty
from src.schedules import Schedule, as_schedule
from src.schema import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt


class GAN(GenerativeModel):
    """Each step: the discriminator on real and generated pictures, then the generator.

    discriminator_steps: discriminator updates to one of the generator, each on a batch of its own.
    ema_halflife_images: memory of the averaged generator, which makes all pictures shown and judged; it is shorter
    at first, ema_rampup times the images seen (Karras et al., 2020). 0: no averaging. augmentation: what the
    discriminator sees of pictures, real and generated; gradient penalties are those of the pictures before it.
    learning_rate_factor: multiplies the learning rates of both optimizers. beta2: in place of that of both.
    channels_last: the memory layout of pictures and weights. compile_networks: by torch.compile, from the first step.
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
        ema_halflife_images: NonNegativeFloat | Schedule = 10_000.0,
        ema_rampup: PositiveFloat = 0.05,
        augmentation: Augmentation | None = None,
        learning_rate_factor: NonNegativeFloat | Schedule = 1.0,
        beta2: Fraction | Schedule | None = None,
        channels_last: bool = False,
        compile_networks: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.compile_networks = compile_networks
        self.generator = generator.to(memory_format=self.memory_format)
        self.discriminator = discriminator.to(memory_format=self.memory_format)
        self.generator_ema = copy.deepcopy(generator).requires_grad_(False)
        self.adversarial_loss, self.gradient_penalty = adversarial_loss, gradient_penalty
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.latent_dim = latent_dim
        self.discriminator_steps = discriminator_steps
        self.ema_rampup = ema_rampup
        self.augmentation = augmentation
        self.scheduled = {
            "learning_rate_factor": as_schedule(learning_rate_factor),
            "ema_halflife_images": as_schedule(ema_halflife_images),
            **gradient_penalty.scheduled,
        }
        if beta2 is not None:
            self.scheduled["beta2"] = as_schedule(beta2)

    def decode(self, latents: Tensor) -> Tensor:
        return self.generator_ema(latents).clamp(-1, 1)

    def generate(self, like: Tensor) -> Tensor:
        """As many new pictures as `like` has, from noise of this process."""
        latents = torch.randn(len(like), self.latent_dim, device=like.device, dtype=like.dtype)
        return self.generator(latents).to(like.dtype)

    def augmented(self, images: Tensor) -> Tensor:
        return images if self.augmentation is None else self.augmentation(images, self.images_seen)

    def judge(self, images: Tensor) -> Tensor:
        """Logits (N,), in the pictures' precision whatever the network computes in."""
        return self.discriminator(self.augmented(images)).to(images.dtype)

    def judge_exactly(self, images: Tensor) -> Tensor:
        """Logits (N,) that can be differentiated twice: computed in the pictures' precision and by no compiled code."""
        with exact(images):
            return self.discriminator.forward(self.augmented(images))

    def training_step(self, real: Tensor, batch_idx: int) -> dict[str, Tensor | float]:
        real = real.contiguous(memory_format=self.memory_format)
        scheduled = self.apply_schedules()
        self.gradient_penalty.set_weights(scheduled)
        step = self.images_seen // (len(real) * self.trainer.world_size)
        scalars = self.discriminator_step(real, step)
        if (step + 1) % self.discriminator_steps == 0:
            scalars |= self.generator_step(real)
        self.count_images(real)
        return scalars | scheduled

    def discriminator_step(self, real: Tensor, step: int) -> dict[str, Tensor | float]:
        _, optimizer = self.optimizers()  # type: ignore[attr-defined]
        with torch.no_grad():
            fake = self.generate(real)

        penalize = self.gradient_penalty.due(step)
        judge = self.judge_exactly if penalize else self.judge
        real, fake = real.detach().requires_grad_(penalize), fake.requires_grad_(penalize)
        real_logits, fake_logits = judge(real), judge(fake)
        adversarial = self.adversarial_loss.discriminator(real_logits, fake_logits).mean()
        loss, penalties = adversarial, {}
        if penalize:
            with exact(real):
                penalties = self.gradient_penalty(judge, real, fake, real_logits, fake_logits)
            loss = loss + self.gradient_penalty.total(penalties)

        gradient_norm = self.descend(optimizer, loss, self.discriminator)
        adapted = self.augmentation.update(real_logits, fake_logits, self.images_seen) if self.augmentation else {}
        return {
            "discriminator_loss": adversarial.detach(),
            "discriminator_accuracy": share_told_apart(real_logits.detach(), fake_logits.detach()),
            "discriminator_gradient_norm": gradient_norm,
            "discriminator_learning_rate": optimizer.param_groups[0]["lr"],
            "real_logits": real_logits.detach().mean(),
            "fake_logits": fake_logits.detach().mean(),
            **{name: values.detach().mean() for name, values in penalties.items()},
            **adapted,
        }

    def generator_step(self, real: Tensor) -> dict[str, Tensor | float]:
        optimizer, _ = self.optimizers()  # type: ignore[attr-defined]
        # The discriminator only passes gradients on; its own weights gather none.
        self.discriminator.requires_grad_(False)
        fake_logits = self.judge(self.generate(real))
        real_logits = torch.zeros_like(fake_logits)
        if self.adversarial_loss.relativistic:
            with torch.no_grad():
                real_logits = self.judge(real)
        loss = self.adversarial_loss.generator(real_logits, fake_logits).mean()
        gradient_norm = self.descend(optimizer, loss, self.generator)
        self.discriminator.requires_grad_(True)

        num_images = len(real) * self.trainer.world_size * self.discriminator_steps
        seen_by_now = self.images_seen + len(real) * self.trainer.world_size
        halflife = min(self.scheduled["ema_halflife_images"](self.images_seen), self.ema_rampup * seen_by_now)
        update_ema(self.generator_ema, self.generator, num_images, halflife)
        return {
            "generator_loss": loss.detach(),
            "generator_gradient_norm": gradient_norm,
            "generator_learning_rate": optimizer.param_groups[0]["lr"],
            "ema_distance": relative_distance(self.generator_ema, self.generator),
        }

    def descend(self, optimizer: LightningOptimizer, loss: Tensor, network: nn.Module) -> Tensor:
        """One step down; returns the norm of the network's gradient."""
        optimizer.zero_grad()
        with exact(loss):
            self.manual_backward(loss)
        optimizer.step()
        return get_total_norm([weight.grad for weight in network.parameters() if weight.grad is not None])

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


def exact(like: Tensor) -> torch.autocast:
    """In mixed precision keeps what is inside in the precision of its inputs; the backward pass needs it too."""
    return torch.autocast(like.device.type, enabled=False)


def share_told_apart(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The share of pairs in which the real picture has the higher logit: two (N,) -> a scalar; 0.5 is guessing.

    Unlike the sign of a logit it means the same for every loss.
    """
    return (real_logits[:, None] > fake_logits[None, :]).float().mean()
