"""Penalties on the discriminator's gradient; they know nothing of the loss or the optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from src.core.schedules import Schedule, as_schedule
from src.core.types import NonNegativeFloat, PositiveInt


def zero_centred_gradient_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """||grad_x D(x)||^2 per image: R1 on real images, R2 on generated (Mescheder et al., 2018).

    images (N, 3, H, W) that require a gradient, their logits (N,) -> (N,).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def one_centred_gradient_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """(||grad_x D(x)|| - 1)^2 per image (Gulrajani et al., 2017): (N, 3, H, W), (N,) -> (N,)."""
    return ((zero_centred_gradient_penalty(images, logits) + 1e-12).sqrt() - 1).square()


class GradientPenalty(ABC):
    """Penalties by name, each with its weight; `interval` > 1 applies them lazily, every so many steps, with the
    weights multiplied by it (Karras et al., 2020, appendix B)."""

    interval: int
    weights: dict[str, float]
    # What the config says of the weights, by the names of the paper.
    scheduled: dict[str, Schedule]

    @abstractmethod
    def set_weights(self, now: dict[str, float]) -> None:
        """now: the value of each schedule, or more."""

    def should_run(self, step: int) -> bool:
        return any(self.weights.values()) and step % self.interval == 0

    @abstractmethod
    def __call__(
        self,
        discriminator: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        real_logits: Tensor,
        fake_logits: Tensor,
    ) -> dict[str, Tensor]:
        """Unweighted penalties by name, (N,) each; real and fake require a gradient, their logits depend on them."""

    def total(self, penalties: dict[str, Tensor]) -> Tensor:
        """What is added to the loss: the weighted mean over the images, a scalar."""
        return torch.stack(
            [self.interval * self.weights[name] * value.mean() for name, value in penalties.items()]
        ).sum()


class ZeroCentred(GradientPenalty):
    """gamma / 2 times the squared gradient norm, on real images (R1) and on generated ones (R2)."""

    def __init__(
        self,
        r1_gamma: NonNegativeFloat | Schedule,
        r2_gamma: NonNegativeFloat | Schedule,
        interval: PositiveInt = 1,
    ) -> None:
        self.scheduled = {"r1_gamma": as_schedule(r1_gamma), "r2_gamma": as_schedule(r2_gamma)}
        self.set_weights({name: schedule(0) for name, schedule in self.scheduled.items()})
        self.interval = interval

    def set_weights(self, now: dict[str, float]) -> None:
        self.weights = {"r1": now["r1_gamma"] / 2, "r2": now["r2_gamma"] / 2}

    def __call__(
        self,
        discriminator: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        real_logits: Tensor,
        fake_logits: Tensor,
    ) -> dict[str, Tensor]:
        pairs = {"r1": (real, real_logits), "r2": (fake, fake_logits)}
        return {name: zero_centred_gradient_penalty(*pairs[name]) for name, weight in self.weights.items() if weight}


class Interpolated(GradientPenalty):
    """WGAN-GP: the gradient norm is drawn to one on random mixtures of a real and a generated image."""

    def __init__(self, weight: NonNegativeFloat | Schedule, interval: PositiveInt = 1) -> None:
        self.scheduled = {"gradient_penalty_weight": as_schedule(weight)}
        self.set_weights({name: schedule(0) for name, schedule in self.scheduled.items()})
        self.interval = interval

    def set_weights(self, now: dict[str, float]) -> None:
        self.weights = {"gradient_penalty": now["gradient_penalty_weight"]}

    def __call__(
        self,
        discriminator: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        real_logits: Tensor,
        fake_logits: Tensor,
    ) -> dict[str, Tensor]:
        share = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
        mixed = torch.lerp(fake, real, share).detach().requires_grad_()
        return {"gradient_penalty": one_centred_gradient_penalty(mixed, discriminator(mixed))}
