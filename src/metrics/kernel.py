"""The kernel distance between two samples of features, KID on Inception's (Binkowski et al., 2018)."""

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from src.core.errors import UserError
from src.core.types import PositiveInt
from src.metrics.frechet import Statistics


def polynomial_kernel(a: Tensor, b: Tensor, degree: int = 3, coefficient: float = 1.0) -> Tensor:
    """(a.b / D + coefficient)^degree of every pair: (M, D), (N, D) -> (M, N)."""
    return (a @ b.mT / a.shape[1] + coefficient) ** degree


def polynomial_mmd(real: Tensor, generated: Tensor, degree: int = 3, coefficient: float = 1.0) -> Tensor:
    """Unbiased squared maximum mean discrepancy under the polynomial kernel: (M, D), (N, D) -> (); may be negative.

    Gretton et al. (2012), equation 3.
    """

    def mean_of_pairs(features: Tensor) -> Tensor:
        kernel = polynomial_kernel(features, features, degree, coefficient)
        return (kernel.sum() - kernel.trace()) / (len(features) * (len(features) - 1))

    across = polynomial_kernel(real, generated, degree, coefficient).mean()
    return mean_of_pairs(real) + mean_of_pairs(generated) - 2 * across


class FeatureSample(torchmetrics.Metric):
    """The first max_samples features, over batches and ranks."""

    full_state_update = False
    samples: list[Tensor]

    def __init__(self, max_samples: PositiveInt) -> None:
        super().__init__()
        self.max_samples = max_samples
        self.add_state("samples", [], dist_reduce_fx="cat")

    def update(self, features: Tensor) -> None:
        """features: (N, D)."""
        room = self.max_samples - sum(map(len, self.samples))
        self.samples.append(features[:room].float())

    def compute(self) -> Statistics:
        """(min(N, max_samples), D)."""
        return (dim_zero_cat(self.samples)[: self.max_samples],)


class KernelDistance:
    """Mean and deviation of polynomial_mmd over random subsets of the FeatureSamples of real and generated images.

    The subsets depend on `seed` and on the features' order, never on the global random state.
    """

    def __init__(
        self,
        subsets: PositiveInt = 100,
        subset_size: PositiveInt = 1000,
        max_samples: PositiveInt = 10_000,
        seed: int = 0,
    ) -> None:
        self.subsets = subsets
        self.subset_size = subset_size
        self.max_samples = max_samples
        self.seed = seed

    @property
    def statistics_key(self) -> str:
        return f"sample-{self.max_samples}"

    def statistics(self, num_features: int) -> FeatureSample:
        return FeatureSample(self.max_samples)

    def __call__(self, real: Statistics, generated: Statistics) -> dict[str, float]:
        """The values, under the suffixes their names get. Raises UserError below two images."""
        (real_features,), (generated_features,) = real, generated
        size = min(self.subset_size, len(real_features), len(generated_features))
        if size < 2:
            raise UserError(f"a kernel distance needs at least two images of each kind, not {size}")
        everything = size == len(real_features) == len(generated_features)
        generator = torch.Generator().manual_seed(self.seed)
        values = torch.stack(
            [
                polynomial_mmd(
                    draw(real_features, size, generator).double(), draw(generated_features, size, generator).double()
                )
                for _ in range(1 if everything else self.subsets)
            ]
        )
        return {"": float(values.mean()), "_std": float(values.std(correction=0))}


def draw(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Rows without replacement: (N, D) -> (size, D)."""
    return features[torch.randperm(len(features), generator=generator)[:size].to(features.device)]
