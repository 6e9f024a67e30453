"""Metrics on the mean and covariance of features: Frechet distance (Heusel et al., 2017) and diversity."""

import torch
import torchmetrics
from torch import Tensor

from src.core.errors import UserError


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


def spread(covariance: Tensor) -> Tensor:
    """Return the root of the mean squared distance between two draws, up to a constant: (D, D) -> ()."""
    return covariance.trace().sqrt()


def effective_dimension(covariance: Tensor) -> Tensor:
    """Return the participation ratio of the eigenvalues: (D, D) -> ().

    It is the number of directions if all have the same variance, and at most K - 1 for K distinct images.
    """
    return covariance.trace().square() / covariance.square().sum()


class FeatureMoments(torchmetrics.Metric):
    """Mean and unbiased covariance of features, summed in float64 over batches and ranks.

    Float64 sums of float32 features lose less than the features' own rounding, so nothing is shifted first.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(num_features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(num_features, num_features, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add features (N, D)."""
        # Move, then widen: MPS has no float64.
        features = features.to(self.total.device).double()
        self.count += len(features)
        self.total += features.sum(dim=0)
        self.products.addmm_(features.mT, features)

    def compute(self) -> Tensor:
        """Return the mean above the covariance, (1 + D, D). Raises UserError for fewer than two images."""
        if self.count < 2:
            raise UserError(f"a covariance needs at least two images, not {int(self.count)}")
        mean = self.total / self.count
        covariance = (self.products - self.count * mean.outer(mean)) / (self.count - 1)
        return torch.cat([mean[None], covariance])


class FrechetDistance:
    """Frechet distance between real and generated images, from their FeatureMoments."""

    max_samples = 0

    def __call__(self, real: Tensor, generated: Tensor) -> dict[str, float]:
        """Return the distance under an empty suffix: it has the metric's own name."""
        return {"": float(frechet_distance(real[0], real[1:], generated[0], generated[1:]))}


class Diversity:
    """Diversity of generated images as a fraction of that of real ones; 0 if all generated images are alike.

    The value is the ratio of their spreads; `_dimension` is that of their effective dimensions, which also falls when
    there are few kinds of images far from each other.
    """

    max_samples = 0

    def __call__(self, real: Tensor, generated: Tensor) -> dict[str, float]:
        """Return both values under the suffixes of their names."""
        ratios = {
            suffix: measure(generated[1:]) / measure(real[1:])
            for suffix, measure in {"": spread, "_dimension": effective_dimension}.items()
        }
        return {suffix: float(ratio.nan_to_num(0.0)) for suffix, ratio in ratios.items()}
