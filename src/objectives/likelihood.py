"""p(image | decoder output): one class a likelihood, all with the same two methods.

A decoder's outputs (N, 3, H, W) are unbounded; `mean` turns them into pictures in [-1, 1].
"""

import math
from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from src.schema import PositiveFloat


class Likelihood(ABC):
    # Natural logarithm of the grey levels in one unit of [-1, 1].
    log_levels_per_unit = math.log(127.5)

    def mean(self, outputs: Tensor) -> Tensor:
        """Decoder outputs -> the picture they stand for, in [-1, 1]: (N, 3, H, W) -> (N, 3, H, W)."""
        return outputs.tanh()

    @abstractmethod
    def log_prob(self, images: Tensor, outputs: Tensor) -> Tensor:
        """log p(image | outputs) in nats per image: two (N, 3, H, W) -> (N,)."""


class Gaussian(Likelihood):
    """One variance shared by all pixels, at its analytic optimum for the batch: the mean squared error.

    Rybkin, Daniilidis & Levine (2021), "Simple and effective VAE training with calibrated decoders", section 4.
    The optimum is a constant of the gradient: its own derivative is zero there.
    """

    def log_prob(self, images: Tensor, outputs: Tensor) -> Tensor:
        squared_error = (images - self.mean(outputs)).square()
        variance = squared_error.detach().mean().clamp_min(1e-8)
        return -0.5 * (squared_error / variance + (2 * math.pi * variance).log()).sum(dim=(1, 2, 3))


class GaussianFixed(Likelihood):
    """A Gaussian of one given standard deviation, in units of [-1, 1]."""

    def __init__(self, standard_deviation: PositiveFloat) -> None:
        self.variance = standard_deviation**2

    def log_prob(self, images: Tensor, outputs: Tensor) -> Tensor:
        squared_error = (images - self.mean(outputs)).square()
        return -0.5 * (squared_error / self.variance + math.log(2 * math.pi * self.variance)).sum(dim=(1, 2, 3))


class Laplace(Likelihood):
    """One scale shared by all pixels, at its analytic optimum for the batch: the mean absolute error."""

    def log_prob(self, images: Tensor, outputs: Tensor) -> Tensor:
        absolute_error = (images - self.mean(outputs)).abs()
        scale = absolute_error.detach().mean().clamp_min(1e-4)
        return -(absolute_error / scale + (2 * scale).log()).sum(dim=(1, 2, 3))


class Bernoulli(Likelihood):
    """The classic binary cross-entropy on grey values in [0, 1]; no density of them, so its bits compare only
    with each other (Loaiza-Ganem & Cunningham, 2019)."""

    log_levels_per_unit = 0.0

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid() * 2 - 1

    def log_prob(self, images: Tensor, outputs: Tensor) -> Tensor:
        return -binary_cross_entropy_with_logits(outputs, (images + 1) / 2, reduction="none").sum(dim=(1, 2, 3))
