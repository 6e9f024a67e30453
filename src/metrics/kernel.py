"""The kernel distance between two samples of features, called KID on Inception's (Binkowski et al., 2018)."""

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from src.core.errors import UserError
from src.core.types import PositiveInt
from src.metrics.frechet import Statistics


def polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a.b / D + 1)^3 of every pair: (M, D), (N, D) -> (M, N)."""
    return (a @ b.mT / a.shape[1] + 1) ** 3


def unbiased_mmd(within_a: Tensor, within_b: Tensor, across: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two samples from the kernels of all their pairs; may be negative.

    (M, M), (N, N), (M, N) -> (). Gretton et al. (2012), equation 3.
    """

    def mean_of_pairs(kernel: Tensor) -> Tensor:
        return (kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1))

    return mean_of_pairs(within_a) + mean_of_pairs(within_b) - 2 * across.mean()


def polynomial_mmd(real: Tensor, generated: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy under the polynomial kernel: (M, D), (N, D) -> ()."""
    pairs = [(real, real), (generated, generated), (real, generated)]
    return unbiased_mmd(*(polynomial_kernel(a, b) for a, b in pairs))


class FeatureSample(torchmetrics.Metric):
    """The first max_samples features, over batches and ranks."""

    full_state_update = False
    samples: list[Tensor]

    def __init__(self, max_samples: PositiveInt) -> None:
        super().__init__()
        self.max_samples = max_samples
        self.add_state("samples", [], dist_reduce_fx="cat")

    def update(self, features: Tensor) -> None:
        """Add features (N, D)."""
        room = self.max_samples - sum(map(len, self.samples))
        self.samples.append(features[:room].float())

    def compute(self) -> Statistics:
        """Return the features, (min(N, max_samples), D)."""
        return (dim_zero_cat(self.samples)[: self.max_samples],)


class KernelDistance:
    """Mean and standard deviation of polynomial_mmd over random subsets of real and generated FeatureSamples.

    The subsets depend on `seed` and on the features' order, never on the global random state.
    """

    def __init__(
        self,
        subsets: PositiveInt = 100,
        subset_size: PositiveInt = 1000,
        max_samples: PositiveInt = 10_000,
        seed: int = 0,
    ) -> None:
        self.subsets, self.subset_size, self.max_samples, self.seed = subsets, subset_size, max_samples, seed

    @property
    def statistics_key(self) -> str:
        return f"sample-{self.max_samples}"

    def statistics(self, num_features: int) -> FeatureSample:
        return FeatureSample(self.max_samples)

    def __call__(self, real: Statistics, generated: Statistics) -> dict[str, float]:
        """Return both values under the suffixes of their names. Raises UserError for fewer than two images."""
        (real_features,), (generated_features,) = real, generated
        size = min(self.subset_size, len(real_features), len(generated_features))
        if size < 2:
            raise UserError(f"a kernel distance needs at least two images of each kind, not {size}")
        is_whole_sample = size == len(real_features) == len(generated_features)
        generator = torch.Generator().manual_seed(self.seed)
        distances = []
        for _ in range(1 if is_whole_sample else self.subsets):
            reals = choose(real_features, size, generator).double()
            distances.append(polynomial_mmd(reals, choose(generated_features, size, generator).double()))
        values = torch.stack(distances)
        return {"": float(values.mean()), "_std": float(values.std(correction=0))}


def choose(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return random rows without replacement: (N, D) -> (size, D)."""
    return features[torch.randperm(len(features), generator=generator)[:size].to(features.device)]
