"""Kullback-Leibler divergences, free bits, a controller of the KL term's weight, and bits per dimension."""

import math

import torch
from torch import Tensor, nn

from src.core.distributed import all_reduce_mean
from src.core.types import PositiveFloat


def kl_per_dimension(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) of each dimension in nats: two (N, D) -> (N, D).

    Kingma & Welling (2014), appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def free_bits_kl(kl_nats: Tensor, free_bits: float) -> Tensor:
    """Return the KL with free bits: (N, D) in nats -> (N,).

    A dimension whose mean over the batch of all ranks is at most free_bits counts as free_bits and has no gradient.
    Kingma et al. (2016), "Improved variational inference with inverse autoregressive flow", equation 15.
    """
    batch_mean, _ = all_reduce_mean(kl_nats.detach())
    return torch.where(batch_mean > free_bits, kl_nats, free_bits).sum(dim=1)


class TargetKL(nn.Module):
    """A schedule for the weight beta of the KL term that keeps the KL near target_nats per image.

    An integral controller on a logarithmic scale: log beta moves by log(KL / target), clamped to [-1, 1], in every
    response_images. Its state is a buffer, the same on all ranks.
    """

    log_beta: Tensor

    def __init__(
        self, target_nats: PositiveFloat, initial: PositiveFloat = 1.0, response_images: PositiveFloat = 4_000.0
    ) -> None:
        super().__init__()
        self.target_nats, self.response_images = target_nats, response_images
        self.register_buffer("log_beta", torch.tensor(math.log(initial)))

    def forward(self, images_seen: int) -> Tensor:
        """Return beta, a scalar."""
        return self.log_beta.exp()

    @torch.no_grad()
    def observe(self, kl_nats: Tensor) -> None:
        """Update beta from the KL of this rank's images, (N,); every training step calls it once."""
        kl, num_images = all_reduce_mean(kl_nats.detach())
        error = (kl / self.target_nats).log().clamp(-1, 1)
        self.log_beta += (error * num_images / self.response_images).to(self.log_beta.dtype)


def nats_to_bits_per_dimension(nats: Tensor, num_dimensions: int, log_levels_per_unit: float) -> Tensor:
    """Convert a negative log-likelihood in nats per image to bits per dimension of 8-bit images: (N,) -> (N,).

    A density over [-1, 1] gives each of the 256 gray levels its value times the width of a level, 2 / 255;
    log_levels_per_unit is the logarithm of that width's inverse (0 for a likelihood that is not a density).
    """
    return (nats / num_dimensions + log_levels_per_unit) / math.log(2)
