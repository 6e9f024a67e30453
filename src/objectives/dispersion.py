"""How far pictures lie from a decoder's means: the one variance or scale that all pixels share."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from src.objectives.all_processes import mean_of_all
from src.schema import PositiveFloat

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
    batches, whose memory has halflife_images: so the likelihood of one held-out picture is that of a model, not of the
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
        per_image, num_images = mean_of_all(deviations.detach().flatten(1).mean(dim=1))
        optimum = per_image.clamp_min(SMALLEST)
        self.images_averaged += num_images
        # A plain mean of all batches until there are more of them than it remembers.
        weight = (num_images / self.images_averaged).clamp_min(1 - 0.5 ** (num_images / self.halflife_images))
        self.average.lerp_(optimum.to(self.average.dtype), weight.to(self.average.dtype))
        return optimum
