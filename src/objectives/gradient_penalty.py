"""Penalties on the discriminator's gradient with respect to images, independent of the loss and the optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from src.core.schedules import Schedule, as_schedule
from src.core.types import NonNegativeFloat, PositiveInt

Discriminator = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> logits (N,)


def zero_centered_gradient_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """Return ||grad_x D(x)||^2 per image: R1 on real images, R2 on generated (Mescheder et al., 2018).

    images (N, 3, H, W) that require a gradient, their logits (N,) -> (N,).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def one_centered_gradient_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """Return (||grad_x D(x)|| - 1)^2 per image (Gulrajani et al., 2017): (N, 3, H, W), (N,) -> (N,)."""
    return ((zero_centered_gradient_penalty(images, logits) + 1e-12).sqrt() - 1).square()


class GradientPenalty(ABC):
    """Penalties by name, each with its weight.

    interval: steps from one penalty to the next; the weights are multiplied by it (lazy regularization: Karras et al.,
    2020, appendix B).
    scheduled: the options that the weights are computed from, by the papers' names; numbers or schedules.
    """

    weights: dict[str, float]

    def __init__(self, interval: int, **scheduled: float | Schedule) -> None:
        self.interval = interval
        self.scheduled = {name: as_schedule(value) for name, value in scheduled.items()}
        self.set_weights(images_seen=0)

    @abstractmethod
    def set_weights(self, images_seen: int) -> None:
        """Compute the weights from the current value of each schedule."""

    def should_run(self, step: int) -> bool:
        """Return True in steps with a penalty."""
        return any(self.weights.values()) and step % self.interval == 0

    @abstractmethod
    def __call__(
        self, discriminator: Discriminator, real: Tensor, fake: Tensor, real_logits: Tensor, fake_logits: Tensor
    ) -> dict[str, Tensor]:
        """Return the unweighted penalties by name, (N,) each.

        real, fake: (N, 3, H, W) that require a gradient; their logits (N,) depend on them.
        """

    def total(self, penalties: dict[str, Tensor]) -> Tensor:
        """Return the weighted mean of the penalties over the images, to add to the loss: a scalar."""
        weighted = [self.interval * self.weights[name] * value.mean() for name, value in penalties.items()]
        return torch.stack(weighted).sum()


class ZeroCentered(GradientPenalty):
    """R1 and R2: gamma / 2 times the squared gradient norm, on real images (R1) and on generated ones (R2)."""

    def __init__(
        self, r1_gamma: NonNegativeFloat | Schedule, r2_gamma: NonNegativeFloat | Schedule, interval: PositiveInt = 1
    ) -> None:
        super().__init__(interval, r1_gamma=r1_gamma, r2_gamma=r2_gamma)

    def set_weights(self, images_seen: int) -> None:
        self.weights = {name: self.scheduled[f"{name}_gamma"](images_seen) / 2 for name in ("r1", "r2")}

    def __call__(
        self, discriminator: Discriminator, real: Tensor, fake: Tensor, real_logits: Tensor, fake_logits: Tensor
    ) -> dict[str, Tensor]:
        pairs = {"r1": (real, real_logits), "r2": (fake, fake_logits)}
        return {name: zero_centered_gradient_penalty(*pairs[name]) for name, weight in self.weights.items() if weight}


class Interpolated(GradientPenalty):
    """WGAN-GP: penalizes gradient norms other than one at random mixtures of a real and a generated image."""

    def __init__(self, weight: NonNegativeFloat | Schedule, interval: PositiveInt = 1) -> None:
        super().__init__(interval, gradient_penalty_weight=weight)

    def set_weights(self, images_seen: int) -> None:
        self.weights = {"gradient_penalty": self.scheduled["gradient_penalty_weight"](images_seen)}

    def __call__(
        self, discriminator: Discriminator, real: Tensor, fake: Tensor, real_logits: Tensor, fake_logits: Tensor
    ) -> dict[str, Tensor]:
        share = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
        mixed = torch.lerp(fake, real, share).detach().requires_grad_()
        return {"gradient_penalty": one_centered_gradient_penalty(mixed, discriminator(mixed))}
