"""Adversarial losses: one object for both players, always (real_logits, fake_logits), two (N,) -> (N,) to minimize."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn.functional import relu, softplus

from src.core.distributed import all_reduce_mean


class AdversarialLoss(ABC):
    """The losses of the discriminator and the generator, one value per pair of a real and a generated image."""

    # True if the generator's loss depends on real_logits.
    relativistic = False

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the discriminator's loss: two (N,) -> (N,)."""

    @abstractmethod
    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the generator's loss: two (N,) -> (N,)."""


class NonSaturating(AdversarialLoss):
    """The original GAN loss with the non-saturating generator (Goodfellow et al., 2014)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus(-real_logits) + softplus(fake_logits)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus(-fake_logits)


class Hinge(AdversarialLoss):
    """The hinge loss (Lim & Ye, 2017; Tran et al., 2017)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return relu(1 - real_logits) + relu(1 + fake_logits)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return -fake_logits


class LeastSquares(AdversarialLoss):
    """The LSGAN loss with target 1 for real and 0 for generated images (Mao et al., 2017, equation 9)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0.5 * ((real_logits - 1).square() + fake_logits.square())

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0.5 * (fake_logits - 1).square()


class Wasserstein(AdversarialLoss):
    """The critic's estimate of the earth mover's distance (Arjovsky et al., 2017); needs a gradient penalty."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits - real_logits

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return -fake_logits


class Relativistic(AdversarialLoss):
    """The base class of losses that compare real with generated images; the generator's has their roles exchanged."""

    relativistic = True

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return self.discriminator(fake_logits, real_logits)


class RelativisticPairing(Relativistic):
    """RpGAN: compares each real image with a generated one (Jolicoeur-Martineau, 2019; as in Huang et al., 2024)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus(fake_logits - real_logits)


class RelativisticAverage(Relativistic):
    """RaSGAN: compares each image with the average of the other kind (Jolicoeur-Martineau, 2019)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real_advantage, fake_advantage = advantages(real_logits, fake_logits)
        return 0.5 * (softplus(-real_advantage) + softplus(fake_advantage))


class RelativisticAverageLeastSquares(Relativistic):
    """RaLSGAN: target 1 for a real image's advantage, -1 for a generated one's (Jolicoeur-Martineau, 2019)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real_advantage, fake_advantage = advantages(real_logits, fake_logits)
        return 0.5 * ((real_advantage - 1).square() + (fake_advantage + 1).square())


def advantages(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return each logit minus the mean of the other kind over the batch of all ranks: two (N,) -> two (N,)."""
    real_advantage = real_logits - all_reduce_mean(fake_logits)[0]
    return real_advantage, fake_logits - all_reduce_mean(real_logits)[0]
