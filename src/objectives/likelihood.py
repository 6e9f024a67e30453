"""Likelihoods p(image | logits) of a decoder's unbounded logits (N, 3, H, W), and the dispersions they share.

The mean of a likelihood turns logits into images in [-1, 1].
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from src.core.distributed import all_reduce_mean
from src.core.types import PositiveFloat

MIN_DISPERSION = 1e-8
HALF_LEVEL = 1 / 255  # of the 256 gray levels in [-1, 1]
# One number for all pixels, the variance of a Gaussian or the scale of a Laplace or logistic distribution, given the
# squared or absolute errors (N, 3, H, W), whose mean is its maximum likelihood estimate.
Dispersion = Callable[[Tensor], Tensor]


class Fixed(nn.Module):
    """A given dispersion, in units of [-1, 1] (squared, for a variance)."""

    value: Tensor

    def __init__(self, value: PositiveFloat) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float(value)), persistent=False)

    def forward(self, deviations: Tensor) -> Tensor:
        return self.value.to(deviations.dtype)


class Learned(nn.Module):
    """A parameter, trained with the networks."""

    def __init__(self, initial: PositiveFloat) -> None:
        super().__init__()
        self.log_value = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self, deviations: Tensor) -> Tensor:
        return self.log_value.exp().to(deviations.dtype)


class Optimal(nn.Module):
    """The analytic optimum for the batch of all ranks: the mean deviation.

    Rybkin, Daniilidis & Levine (2021), "Simple and effective VAE training with calibrated decoders", section 4. The
    loss's derivative with respect to the optimum is zero, so it carries no gradient. In evaluation mode it is the
    average over the last training batches, with a half-life of halflife_images, so the likelihood of a held-out image
    does not depend on its batch.
    """

    average: Tensor
    images_averaged: Tensor

    def __init__(self, halflife_images: PositiveFloat = 2_000.0) -> None:
        super().__init__()
        self.halflife_images = halflife_images
        self.register_buffer("average", torch.tensor(1.0))
        self.register_buffer("images_averaged", torch.tensor(0))

    def forward(self, deviations: Tensor) -> Tensor:
        if not self.training:
            return self.average.to(deviations.dtype)
        per_image, num_images = all_reduce_mean(deviations.detach().flatten(1).mean(dim=1))
        optimum = per_image.clamp_min(MIN_DISPERSION)
        self.images_averaged += num_images
        # At first the plain mean of all batches; the exponential average once that forgets faster.
        weight = (num_images / self.images_averaged).clamp_min(1 - 0.5 ** (num_images / self.halflife_images))
        self.average.lerp_(optimum.to(self.average.dtype), weight.to(self.average.dtype))
        return optimum


class Likelihood(nn.Module, ABC):
    """A distribution of images given a decoder's logits, independent between pixels."""

    # Natural logarithm of the gray levels per unit of [-1, 1]; 0 for a likelihood that is not a density.
    log_levels_per_unit = math.log(127.5)

    def mean(self, logits: Tensor) -> Tensor:
        """Return the mean image in [-1, 1]: (N, 3, H, W) -> (N, 3, H, W)."""
        return logits.tanh()

    @abstractmethod
    def log_prob(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return log p(image | logits) in nats per image: two (N, 3, H, W) -> (N,)."""


class Gaussian(Likelihood):
    """A normal distribution around the mean, with one variance for all pixels."""

    def __init__(self, variance: Dispersion) -> None:
        super().__init__()
        self.variance = variance

    def log_prob(self, images: Tensor, logits: Tensor) -> Tensor:
        squared_error = (images - self.mean(logits)).square()
        variance = self.variance(squared_error)
        return -0.5 * (squared_error / variance + (2 * math.pi * variance).log()).sum(dim=(1, 2, 3))


class Laplace(Likelihood):
    """A Laplace distribution around the mean, with one scale for all pixels."""

    def __init__(self, scale: Dispersion) -> None:
        super().__init__()
        self.scale = scale

    def log_prob(self, images: Tensor, logits: Tensor) -> Tensor:
        absolute_error = (images - self.mean(logits)).abs()
        scale = self.scale(absolute_error)
        return -(absolute_error / scale + (2 * scale).log()).sum(dim=(1, 2, 3))


class Bernoulli(Likelihood):
    """The binary cross-entropy of gray values in [0, 1].

    It is not a density of gray values, so its bits compare only with each other (Loaiza-Ganem & Cunningham, 2019).
    """

    log_levels_per_unit = 0.0

    def mean(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() * 2 - 1

    def log_prob(self, images: Tensor, logits: Tensor) -> Tensor:
        return -binary_cross_entropy_with_logits(logits, (images + 1) / 2, reduction="none").sum(dim=(1, 2, 3))


class DiscretizedLogistic(Likelihood):
    """Probabilities of the 256 gray levels: a logistic distribution around the mean, integrated over each level.

    Salimans et al. (2017), "PixelCNN++", section 2.1, with one component. The outermost intervals are open, so the
    probabilities sum to one and the bits are those of a lossless code. Images are rounded to levels first.
    """

    log_levels_per_unit = 0.0

    def __init__(self, scale: Dispersion) -> None:
        super().__init__()
        self.scale = scale

    def log_prob(self, images: Tensor, logits: Tensor) -> Tensor:
        levels = ((images + 1) * 127.5).round().clamp(0, 255)
        error = levels / 127.5 - 1 - self.mean(logits)
        scale = self.scale(error.abs())
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), without the cancellation.
        log_below_upper = logsigmoid((error + HALF_LEVEL) / scale)
        log_above_lower = logsigmoid(-(error - HALF_LEVEL) / scale)
        log_probability = log_below_upper + log_above_lower + (-torch.expm1(-2 * HALF_LEVEL / scale)).log()
        log_probability = torch.where(levels == 0, log_below_upper, log_probability)
        log_probability = torch.where(levels == 255, log_above_lower, log_probability)
        return log_probability.sum(dim=(1, 2, 3))
