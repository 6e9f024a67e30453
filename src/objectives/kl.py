"""Kullback-Leibler divergences and the evidence lower bound."""

import math

from torch import Tensor


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats: two (N, D) -> (N,).

    Kingma & Welling (2014), appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def nats_to_bits_per_dimension(nats: Tensor, num_dimensions: int, log_levels_per_unit: float) -> Tensor:
    """Negative log-likelihood in nats per image, of a density -> bits per dimension of 8-bit pictures.

    A density over [-1, 1] gives each of the 256 grey levels its value times the width of the level, 2 / 255;
    log_levels_per_unit is the logarithm of that width's inverse (0 for a likelihood that is no density).
    """
    return (nats / num_dimensions + log_levels_per_unit) / math.log(2)
