"""p(image | decoder output): one class a likelihood, all with the same two methods.

A decoder's outputs (N, 3, H, W) are unbounded; `mean` turns them into images in [-1, 1].
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from src.core.distributed import all_reduce_mean
from src.core.types import PositiveFloat

SMALLEST = 1e-8


class Dispersion(nn.Module, ABC):
    """The variance of a Gaussian, the scale of a Laplace distribution."""

    @abstractmethod
    def forward(self, deviations: Tensor) -> Tensor:
        """Deviations (N, 3, H, W), whose mean is the most likely dispersion -> the dispersion, ()."""


class Fixed(Dispersion):
    """A given number, in units of [-1, 1] (squared, for a variance)."""

    value: Tensor

    def __init__(self, value: PositiveFloat) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float(value)), persistent=False)

    def forward(self, deviations: Tensor) -> Tensor:
        return self.value.to(deviations.dtype)


class Learned(Dispersion):
    """A parameter, trained with the networks."""

    def __init__(self, initial: PositiveFloat) -> None:
        super().__init__()
        self.log_value = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self, deviations: Tensor) -> Tensor:
        return self.log_value.exp().to(deviations.dtype)


class Optimal(Dispersion):
    """In training the analytic optimum for the batch of all processes: the deviations' mean.

    Rybkin, Daniilidis & Levine (2021), "Simple and effective VAE training with calibrated decoders", section 4. The
    optimum is a constant of the gradient: its own derivative is zero there. Afterwards it is the average over the last
    batches, whose memory has halflife_images: so the likelihood of one held-out image is that of a model, not of the
    company it is judged in.
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
        optimum = per_image.clamp_min(SMALLEST)
        self.images_averaged += num_images
        # A plain mean of all batches until there are more of them than it remembers.
        weight = (num_images / self.images_averaged).clamp_min(1 - 0.5 ** (num_images / self.halflife_images))
        self.average.lerp_(optimum.to(self.average.dtype), weight.to(self.average.dtype))
        return optimum


HALF_LEVEL = 1 / 255  # of the 256 gray levels in [-1, 1]


class Likelihood(nn.Module, ABC):
    # Natural logarithm of the gray levels in one unit of [-1, 1]; 0 for what is no density.
    log_levels_per_unit = math.log(127.5)

    def mean(self, outputs: Tensor) -> Tensor:
        """Decoder outputs -> the image they stand for, in [-1, 1]: (N, 3, H, W) -> (N, 3, H, W)."""
        return outputs.tanh()

    @abstractmethod
    def log_prob(self, images: Tensor, outputs: Tensor) -> Tensor:
        """log p(image | outputs) in nats per image: two (N, 3, H, W) -> (N,)."""


class Gaussian(Likelihood):
    """Normal around the mean, with one variance for all pixels."""

    def __init__(self, variance: Dispersion) -> None:
        super().__init__()
        self.variance = variance

    def log_prob(self, images: Tensor, outputs: Tensor) -> Tensor:
        squared_error = (images - self.mean(outputs)).square()
        variance = self.variance(squared_error)
        return -0.5 * (squared_error / variance + (2 * math.pi * variance).log()).sum(dim=(1, 2, 3))


class Laplace(Likelihood):
    """Two-sided exponential around the mean, with one scale for all pixels."""

    def __init__(self, scale: Dispersion) -> None:
        super().__init__()
        self.scale = scale

    def log_prob(self, images: Tensor, outputs: Tensor) -> Tensor:
        absolute_error = (images - self.mean(outputs)).abs()
        scale = self.scale(absolute_error)
        return -(absolute_error / scale + (2 * scale).log()).sum(dim=(1, 2, 3))


class Bernoulli(Likelihood):
    """The classic binary cross-entropy on gray values in [0, 1]; no density of them, so its bits compare only
    with each other (Loaiza-Ganem & Cunningham, 2019)."""

    log_levels_per_unit = 0.0

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid() * 2 - 1

    def log_prob(self, images: Tensor, outputs: Tensor) -> Tensor:
        return -binary_cross_entropy_with_logits(outputs, (images + 1) / 2, reduction="none").sum(dim=(1, 2, 3))


class DiscretizedLogistic(Likelihood):
    """Probabilities of the 256 gray levels: a logistic distribution around the mean, cut into the levels' intervals.

    Salimans et al. (2017), "PixelCNN++", section 2.1, with one component. The outermost intervals are open, so the
    probabilities add up to one and the bits are those of a lossless code. Images are rounded to levels first.
    """

    log_levels_per_unit = 0.0

    def __init__(self, scale: Dispersion) -> None:
        super().__init__()
        self.scale = scale

    def log_prob(self, images: Tensor, outputs: Tensor) -> Tensor:
        levels = ((images + 1) * 127.5).round().clamp(0, 255)
        error = levels / 127.5 - 1 - self.mean(outputs)
        scale = self.scale(error.abs())
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), without the cancellation.
        below_upper_end = logsigmoid((error + HALF_LEVEL) / scale)
        above_lower_end = logsigmoid(-(error - HALF_LEVEL) / scale)
        log_probability = below_upper_end + above_lower_end + (-torch.expm1(-2 * HALF_LEVEL / scale)).log()
        log_probability = torch.where(levels == 0, below_upper_end, log_probability)
        log_probability = torch.where(levels == 255, above_lower_end, log_probability)
        return log_probability.sum(dim=(1, 2, 3))
