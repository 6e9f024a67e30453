"""What models that train against a discriminator share: its judgement, and its step."""

from collections.abc import Callable

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from src.models.base import GenerativeModel
from src.networks.augmentation import Augmentation
from src.objectives.adversarial import AdversarialLoss
from src.objectives.gradient_penalty import GradientPenalty

MEASURED_EVERY = 8  # steps


class AdversarialModel(GenerativeModel):
    """A model with a discriminator, optimized by hand. Gradient penalties are those of the images before the
    augmentation, which is what the discriminator sees of images, real and generated."""

    ddp_strategy = "ddp_find_unused_parameters_true"

    def set_adversary(
        self,
        discriminator: nn.Module,
        adversarial_loss: AdversarialLoss,
        gradient_penalty: GradientPenalty,
        augmentation: Augmentation | None,
    ) -> None:
        """Called once, by the constructor."""
        self.automatic_optimization = False
        self.discriminator = discriminator
        self.adversarial_loss, self.gradient_penalty = adversarial_loss, gradient_penalty
        self.augmentation = augmentation
        self.scheduled |= gradient_penalty.scheduled

    def augmented(self, images: Tensor) -> Tensor:
        return images if self.augmentation is None else self.augmentation(images, self.images_seen)

    def judge(self, images: Tensor) -> Tensor:
        """Logits (N,), in the images' precision whatever the network computes in."""
        return self.discriminator(self.augmented(images)).to(images.dtype)

    def logits_for_penalty(self, images: Tensor) -> Tensor:
        """Logits (N,) that can be differentiated twice: computed in the images' precision and by no compiled code."""
        with exact(images):
            return self.discriminator.forward(self.augmented(images))

    def train_discriminator(
        self, optimizer: LightningOptimizer, real: Tensor, fake: Tensor, step: int
    ) -> dict[str, Tensor | float]:
        """On real and as many generated images, (N, 3, H, W) each. step: how many came before."""
        penalize = self.gradient_penalty.should_run(step)
        judge = self.logits_for_penalty if penalize else self.judge
        real, fake = real.detach().requires_grad_(penalize), fake.detach().requires_grad_(penalize)
        real_logits, fake_logits = judge(real), judge(fake)
        adversarial = self.adversarial_loss.discriminator(real_logits, fake_logits).mean()
        loss, penalties = adversarial, {}
        if penalize:
            with exact(real):
                penalties = self.gradient_penalty(judge, real, fake, real_logits, fake_logits)
            loss = loss + self.gradient_penalty.total(penalties)

        self.descend(optimizer, loss)
        adapted = self.augmentation.update(real_logits, fake_logits, self.images_seen) if self.augmentation else {}
        return {
            "discriminator_loss": adversarial.detach(),
            "discriminator_auroc": auroc(real_logits.detach(), fake_logits.detach()),
            "discriminator_learning_rate": optimizer.param_groups[0]["lr"],
            "real_logits": real_logits.detach().mean(),
            "fake_logits": fake_logits.detach().mean(),
            **{name: values.detach().mean() for name, values in penalties.items()},
            **adapted,
            **measured(step, discriminator_gradient_norm=lambda: gradient_norm(self.discriminator)),
        }

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator says against as many generated images, (N,): its weights should need no gradient."""
        fake_logits = self.judge(fake)
        real_logits = torch.zeros_like(fake_logits)
        if self.adversarial_loss.relativistic:
            with torch.no_grad():
                real_logits = self.judge(real)
        return self.adversarial_loss.generator(real_logits, fake_logits)

    def descend(self, optimizer: LightningOptimizer, loss: Tensor) -> None:
        """One step down."""
        optimizer.zero_grad()
        with exact(loss):
            self.manual_backward(loss)
        optimizer.step()


def measured(step: int, **measures: Callable[[], Tensor]) -> dict[str, Tensor]:
    """What reads all weights is measured in the first step and every eighth after it: it costs 1% of a small GAN's."""
    return {name: measure() for name, measure in measures.items()} if step % MEASURED_EVERY == 0 else {}


def gradient_norm(network: nn.Module) -> Tensor:
    """Of the last step: a scalar."""
    return get_total_norm([weight.grad for weight in network.parameters() if weight.grad is not None])


def exact(like: Tensor) -> torch.autocast:
    """In mixed precision keeps what is inside in the precision of its inputs; the backward pass needs it too."""
    return torch.autocast(like.device.type, enabled=False)


def auroc(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The share of pairs in which the real image has the higher logit: two (N,) -> a scalar; 0.5 is guessing.

    Unlike the sign of a logit it means the same for every loss.
    """
    return (real_logits[:, None] > fake_logits[None, :]).float().mean()
