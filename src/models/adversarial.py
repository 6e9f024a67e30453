"""The base class of models that train against a discriminator: its logits, and its training step."""

import math
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from src.core.errors import UserError
from src.core.schedules import Schedule, as_schedule
from src.core.types import NonNegativeFloat, NonNegativeInt, PositiveFloat
from src.models.base import GenerativeModel, OptimizerFactory
from src.models.ema import relative_distance, update_ema
from src.networks.augmentation import Augmentation
from src.objectives.adversarial import AdversarialLoss
from src.objectives.gradient_penalty import GradientPenalty

MEASURE_INTERVAL = 7  # steps; prime, so that steps with and without a penalty are measured in their proportion


class AdversarialModel(GenerativeModel):
    """A model with a discriminator, trained under manual optimization.

    The discriminator sees real and generated images through the same augmentation. Gradient penalties are taken with
    respect to the images before augmentation.

    augmentation: transforms of real and generated images before the discriminator.
    ema_halflife_images: memory of the averaged generator or decoder, which makes all images shown and evaluated; 0: no
    averaging. At first it is ema_rampup times the images seen (Karras et al., 2020); null: never, as init_from sets it.
    freeze_discriminator_layers: its first layers with weights that are never trained, for fine-tuning on few images
    (FreezeD: Mo et al., 2020).
    options: of the next base class.
    """

    ddp_strategy = "ddp_find_unused_parameters_true"

    def __init__(
        self,
        discriminator: nn.Module,
        adversarial_loss: AdversarialLoss,
        gradient_penalty: GradientPenalty,
        discriminator_optimizer: OptimizerFactory,
        augmentation: Augmentation | None = None,
        ema_halflife_images: NonNegativeFloat | Schedule = 20_000.0,
        ema_rampup: PositiveFloat | None = 0.15,
        freeze_discriminator_layers: NonNegativeInt = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.automatic_optimization = False
        self.discriminator = discriminator.to(memory_format=self.memory_format)
        layers = [layer for layer in discriminator.children() if any(True for _ in layer.parameters())]
        for layer in layers[:freeze_discriminator_layers]:
            layer.requires_grad_(False)
        self.discriminator_weights = [weight for weight in discriminator.parameters() if weight.requires_grad]
        if not self.discriminator_weights:
            frozen = f"model.freeze_discriminator_layers={freeze_discriminator_layers}"
            raise UserError(f"{frozen} freezes all {len(layers)}; give fewer")
        self.adversarial_loss, self.gradient_penalty = adversarial_loss, gradient_penalty
        self.discriminator_optimizer, self.augmentation = discriminator_optimizer, augmentation
        self.scheduled |= {"ema_halflife_images": as_schedule(ema_halflife_images)} | gradient_penalty.scheduled
        self.ema_rampup = ema_rampup

    def augment(self, images: Tensor) -> Tensor:
        """Return images as the discriminator sees them: (N, 3, H, W) -> (N, 3, H, W)."""
        return images if self.augmentation is None else self.augmentation(images, self.images_seen)

    def discriminate(self, images: Tensor) -> Tensor:
        """Return the discriminator's logits, in the images' precision: (N, 3, H, W) -> (N,)."""
        return self.discriminator(self.augment(images)).to(images.dtype)

    def discriminate_for_penalty(self, images: Tensor) -> Tensor:
        """Return logits that can be differentiated twice: computed in the images' precision and not compiled."""
        with full_precision(images):
            return self.discriminator.forward(self.augment(images))

    def train_discriminator(
        self, optimizer: LightningOptimizer, real: Tensor, fake: Tensor, step: int
    ) -> dict[str, Tensor | float]:
        """Take a discriminator step on as many real as generated images, (N, 3, H, W) each; return scalars to log.

        step: the number of steps before this one.
        """
        self.gradient_penalty.set_weights(self.images_seen)
        penalize = self.gradient_penalty.should_run(step)
        discriminate = self.discriminate_for_penalty if penalize else self.discriminate
        real, fake = real.detach().requires_grad_(penalize), fake.detach().requires_grad_(penalize)
        real_logits, fake_logits = discriminate(real), discriminate(fake)
        adversarial = self.adversarial_loss.discriminator(real_logits, fake_logits).mean()
        loss, penalties = adversarial, {}
        if penalize:
            with full_precision(real):
                penalties = self.gradient_penalty(discriminate, real, fake, real_logits, fake_logits)
            loss = loss + self.gradient_penalty.total(penalties)

        self.take_step(optimizer, loss)
        adapted = self.augmentation.update(real_logits, fake_logits, self.images_seen) if self.augmentation else {}
        return {
            "discriminator_loss": adversarial.detach(),
            "discriminator_auroc": auroc(real_logits.detach(), fake_logits.detach()),
            "discriminator_learning_rate": optimizer.param_groups[0]["lr"],
            "real_logits": real_logits.detach().mean(),
            "fake_logits": fake_logits.detach().mean(),
            **{name: values.detach().mean() for name, values in penalties.items()},
            **adapted,
            **measure(step, "discriminator", self.discriminator),
        }

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the generator's loss: as many real as generated images, (N, 3, H, W) each -> (N,)."""
        # The discriminator only passes gradients on; its own weights accumulate none.
        for weight in self.discriminator_weights:
            weight.requires_grad_(False)
        fake_logits = self.discriminate(fake)
        real_logits = torch.full_like(fake_logits, math.nan)  # for losses that do not use them
        if self.adversarial_loss.relativistic:
            with torch.no_grad():
                real_logits = self.discriminate(real)
        for weight in self.discriminator_weights:
            weight.requires_grad_(True)
        return self.adversarial_loss.generator(real_logits, fake_logits)

    def update_average(self, average: nn.Module, network: nn.Module, batch_images: int, num_batches: int = 1) -> None:
        """Move the averaged network towards the trained one by some batches, of which the last is not yet counted."""
        halflife = self.scheduled["ema_halflife_images"](self.images_seen)
        if self.ema_rampup:
            halflife = min(halflife, self.ema_rampup * (self.images_seen + batch_images))
        update_ema(average, network, num_batches * batch_images, halflife)

    def take_step(self, optimizer: LightningOptimizer, loss: Tensor) -> None:
        """Backpropagate the loss, a scalar, and take one optimizer step."""
        optimizer.zero_grad()
        with full_precision(loss):
            self.manual_backward(loss)
        optimizer.step()


def measure(step: int, name: str, network: nn.Module, average: nn.Module | None = None) -> dict[str, Tensor]:
    """Return the total norm of a network's gradients and the relative distance of its average, scalars by name.

    They read all weights, which costs 1% of a small GAN's step, so other steps than every seventh return nothing.
    """
    if step % MEASURE_INTERVAL:
        return {}
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    distance = {"ema_distance": relative_distance(average, network)} if average else {}
    return {f"{name}_gradient_norm": get_total_norm(gradients), **distance}


def full_precision(like: Tensor) -> torch.autocast:
    """Return a context that turns mixed precision off on the tensor's device; the backward pass needs it too."""
    return torch.autocast(like.device.type, enabled=False)


def auroc(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the area under the ROC curve of the logits as a classifier of real images: two (N,) -> a scalar.

    It is the share of pairs in which the real image has the higher logit: 0.5 is guessing. Unlike the sign of a logit
    it means the same for every loss.
    """
    return (real_logits[:, None] > fake_logits[None, :]).float().mean()
