"""The kernel distance between two samples of features, called KID on Inception's (Binkowski et al., 2018)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from src.core.errors import UserError
from src.core.types import PositiveInt


def unbiased_mmd(kernel: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two samples, (M, D) and (N, D) -> (); may be negative.

    kernel: (M, D), (N, D) -> (M, N). Gretton et al. (2012), equation 3.
    """

    def mean_of_pairs(values: Tensor) -> Tensor:
        return (values.sum() - values.trace()) / (len(values) * (len(values) - 1))

    return mean_of_pairs(kernel(a, a)) + mean_of_pairs(kernel(b, b)) - 2 * kernel(a, b).mean()


def polynomial_mmd(real: Tensor, generated: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy under the kernel (a.b / D + 1)^3: (M, D), (N, D) -> ()."""
    return unbiased_mmd(lambda a, b: (a @ b.mT / a.shape[1] + 1) ** 3, real, generated)


class FeatureSample(torchmetrics.Metric):
    """At most max_samples features, over batches and ranks: every k-th, the same k for all, so that they span all."""

    full_state_update = False
    samples: list[Tensor]

    def __init__(self, max_samples: PositiveInt) -> None:
        super().__init__()
        self.max_samples, self.seen, self.stride = max_samples, 0, 1
        self.add_state("samples", [], dist_reduce_fx="cat")

    def update(self, features: Tensor) -> None:
        """Add features (N, D)."""
        self.samples.append(features[-self.seen % self.stride :: self.stride].float())
        self.seen += len(features)
        while sum(map(len, self.samples)) > self.max_samples:
            self.samples, self.stride = [dim_zero_cat(self.samples)[::2]], 2 * self.stride

    def compute(self) -> Tensor:
        """Return the features, (at most max_samples, D)."""
        samples = dim_zero_cat(self.samples)
        return samples[:: max(-(-len(samples) // self.max_samples), 1)]


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation of polynomial_mmd over random subsets of real and generated FeatureSamples.

    The subsets depend on `seed` and on the features' order, never on the global random state.
    """

    subsets: PositiveInt = 100
    subset_size: PositiveInt = 1000
    max_samples: PositiveInt = 10_000
    seed: int = 0

    def __call__(self, real: Tensor, generated: Tensor) -> dict[str, float]:
        """Return both values under the suffixes of their names. Raises UserError for fewer than two images."""
        size = min(self.subset_size, len(real), len(generated))
        if size < 2:
            raise UserError(f"a kernel distance needs at least two images of each kind, not {size}")
        generator = torch.Generator().manual_seed(self.seed)

        def subset(features: Tensor) -> Tensor:
            return features[torch.randperm(len(features), generator=generator)[:size].to(features.device)].double()

        is_whole_sample = size == len(real) == len(generated)
        rounds = 1 if is_whole_sample else self.subsets
        values = torch.stack([polynomial_mmd(subset(real), subset(generated)) for _ in range(rounds)])
        return {"": float(values.mean()), "_std": float(values.std(correction=0))}
