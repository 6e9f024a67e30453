"""Kullback-Leibler divergences, how they are held in check, and the evidence lower bound."""

import math

import torch
from torch import Tensor, nn

from src.core.distributed import all_reduce_mean
from src.core.types import PositiveFloat


def kl_per_dimension(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, of every dimension alone: two (N, D) -> (N, D).

    Kingma & Welling (2014), appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats: two (N, D) -> (N,)."""
    return kl_per_dimension(mean, log_variance).sum(dim=1)


def free_bits_kl(kl_nats: Tensor, free_bits: float) -> Tensor:
    """KL whose dimensions cost free_bits each as long as the batch needs no more of them: (N, D) -> (N,).

    Kingma et al. (2016), "Improved variational inference with inverse autoregressive flow", equation 15; the batch is
    that of all processes. A dimension below its free nats has no gradient.
    """
    batch_mean, _ = all_reduce_mean(kl_nats.detach())
    return torch.where(batch_mean > free_bits, kl_nats, free_bits).sum(dim=1)


class TargetKL(nn.Module):
    """The weight of the KL term that keeps the KL near target_nats per image: called with the images seen, a Schedule.

    An integral controller on a logarithmic scale: log beta moves by log(KL / target), at most 1, in every
    response_images. The state is a buffer, the same on all processes.
    """

    log_beta: Tensor

    def __init__(
        self, target_nats: PositiveFloat, initial: PositiveFloat = 1.0, response_images: PositiveFloat = 4_000.0
    ) -> None:
        super().__init__()
        self.target_nats, self.response_images = target_nats, response_images
        self.register_buffer("log_beta", torch.tensor(math.log(initial)))

    def forward(self, images_seen: int) -> Tensor:
        return self.log_beta.exp()

    @torch.no_grad()
    def observe(self, kl_nats: Tensor) -> None:
        """Once a training step, with the KL of this process's images: (N,)."""
        kl, num_images = all_reduce_mean(kl_nats.detach())
        error = (kl / self.target_nats).log().clamp(-1, 1)
        self.log_beta += (error * num_images / self.response_images).to(self.log_beta.dtype)


def nats_to_bits_per_dimension(nats: Tensor, num_dimensions: int, log_levels_per_unit: float) -> Tensor:
    """Negative log-likelihood in nats per image, of a density -> bits per dimension of 8-bit images.

    A density over [-1, 1] gives each of the 256 gray levels its value times the width of the level, 2 / 255;
    log_levels_per_unit is the logarithm of that width's inverse (0 for a likelihood that is no density).
    """
    return (nats / num_dimensions + log_levels_per_unit) / math.log(2)
