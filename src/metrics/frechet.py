"""Features of images, and metrics on their mean and covariance: Frechet distance and diversity."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from src.core.errors import UserError

CPU = torch.device("cpu")


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> Tensor:
    """|a - b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) of two Gaussians, in float64: (D,), (D, D), twice -> ().

    The squared 2-Wasserstein distance (Dowson & Landau, 1982); covariances may be rank-deficient.
    """
    mean_a, covariance_a, mean_b, covariance_b = (
        value.double() for value in (mean_a, covariance_a, mean_b, covariance_b)
    )
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance_a)
    root = (eigenvectors * eigenvalues.clamp(min=0).sqrt()) @ eigenvectors.mT
    product = root @ covariance_b @ root
    overlap = torch.linalg.eigvalsh((product + product.mT) / 2).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * overlap
    return distance.clamp(min=0)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of images, float32 (N, D) on the CPU; mean and covariance are float64 on `device`, computed once."""

    values: Tensor
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def mean(self) -> Tensor:
        """The mean, (D,)."""
        return self.values.to(self.device).mean(dim=0, dtype=torch.float64)

    @cached_property
    def covariance(self) -> Tensor:
        """The unbiased covariance, (D, D). Raises UserError for fewer than two images."""
        if len(self) < 2:
            raise UserError(f"a covariance needs at least two images, not {len(self)}")
        centered = self.values.to(self.device) - self.mean
        return centered.mT @ centered / (len(self) - 1)

    @cached_property
    def distance_of_halves(self) -> float:
        """The Frechet distance of every second image from the others."""
        even, odd = (Features(self.values[start::2], self.device) for start in (0, 1))
        return FrechetDistance()(even, odd)[""]

    def thinned(self, max_images: int) -> Tensor:
        """Return every k-th image's features on `device`, by the smallest k that leaves at most max_images: (M, D)."""
        return self.values[:: max(-(-len(self) // max_images), 1)].to(self.device)


class FrechetDistance:
    """Frechet distance between real and generated images (Heusel et al., 2017)."""

    def __call__(self, real: Features, generated: Features) -> dict[str, float]:
        """Return the distance under an empty suffix: it has the metric's own name."""
        distance = frechet_distance(real.mean, real.covariance, generated.mean, generated.covariance)
        return {"": float(distance)}


class Diversity:
    """Diversity of generated images as a fraction of that of real ones; 0 if all generated images are alike.

    The value is the ratio of the root mean squared distances between two images. `_dimension` is the ratio of effective
    dimensions, the participation ratio of the covariance's eigenvalues: the number of directions if all have the same
    variance, and at most K - 1 for K distinct images, so it falls when few kinds of images are far from each other.
    """

    def __call__(self, real: Features, generated: Features) -> dict[str, float]:
        """Return both values under the suffixes of their names."""
        traces = generated.covariance.trace() / real.covariance.trace()
        squares = generated.covariance.square().sum() / real.covariance.square().sum()
        ratios = {"": traces.sqrt(), "_dimension": traces.square() / squares}
        return {suffix: float(ratio.nan_to_num(0.0)) for suffix, ratio in ratios.items()}
