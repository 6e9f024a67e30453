"""Two-player losses: one object each, always (real_logits, fake_logits), two (N,) -> (N,) to be minimized."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn.functional import relu, softplus

from src.core.distributed import differentiable_all_reduce_mean


class AdversarialLoss(ABC):
    # Whether the generator's loss looks at real_logits; if not, any (N,) will do.
    relativistic = False

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...

    @abstractmethod
    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...


class NonSaturating(AdversarialLoss):
    """The first GAN loss in its practical form (Goodfellow et al., 2014)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus(-real_logits) + softplus(fake_logits)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus(-fake_logits)


class Hinge(AdversarialLoss):
    """Lim & Ye (2017), Tran et al. (2017)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return relu(1 - real_logits) + relu(1 + fake_logits)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return -fake_logits


class LeastSquares(AdversarialLoss):
    """Real images to 1, generated ones to 0 (Mao et al., 2017, equation 9)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0.5 * ((real_logits - 1).square() + fake_logits.square())

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0.5 * (fake_logits - 1).square()


class Wasserstein(AdversarialLoss):
    """The critic's estimate of the earth mover's distance (Arjovsky et al., 2017); wants a gradient penalty."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits - real_logits

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return -fake_logits


class RelativisticPairing(AdversarialLoss):
    """Compares each real with a fake (Jolicoeur-Martineau, 2019; the form of Huang et al., 2024)."""

    relativistic = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus(fake_logits - real_logits)

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus(real_logits - fake_logits)


class RelativisticAverage(AdversarialLoss):
    """RaSGAN: compares each image with the average of the other kind (Jolicoeur-Martineau, 2019).

    The averages are those of the batch of all processes.
    """

    relativistic = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real_advantage, fake_advantage = (
            real_logits - differentiable_all_reduce_mean(fake_logits),
            fake_logits - differentiable_all_reduce_mean(real_logits),
        )
        return 0.5 * (softplus(-real_advantage) + softplus(fake_advantage))

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return self.discriminator(fake_logits, real_logits)


class RelativisticAverageLeastSquares(AdversarialLoss):
    """RaLSGAN: real images one above the average fake, fakes one below the average real (the same paper)."""

    relativistic = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real_advantage, fake_advantage = (
            real_logits - differentiable_all_reduce_mean(fake_logits),
            fake_logits - differentiable_all_reduce_mean(real_logits),
        )
        return 0.5 * ((real_advantage - 1).square() + (fake_advantage + 1).square())

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return self.discriminator(fake_logits, real_logits)
