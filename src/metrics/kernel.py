"""The kernel distance between two samples of features, called KID on Inception's (Binkowski et al., 2018)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from src.core.errors import UserError
from src.core.types import PositiveInt
from src.metrics.frechet import Features


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation, over random subsets of the features, of the squared maximum mean discrepancy.

    It is unbiased, so it may be negative (Gretton et al., 2012, equation 3), and its kernel is (a.b / D + 1)^3. Of more
    than max_samples features every second, third, ... is taken. The subsets depend on `seed` and on the order of the
    features, never on the global random state.
    """

    subsets: PositiveInt = 100
    subset_size: PositiveInt = 1000
    max_samples: PositiveInt = 10_000
    seed: int = 0

    def __call__(self, real: Features, generated: Features) -> dict[str, float]:
        """Return both values under the suffixes of their names. Raises UserError for fewer than two images."""
        real_sample, generated_sample = (side.thinned(self.max_samples) for side in (real, generated))
        size = min(self.subset_size, len(real_sample), len(generated_sample))
        if size < 2:
            raise UserError(f"a kernel distance needs at least two images of each kind, not {size}")
        generator = torch.Generator().manual_seed(self.seed)

        def subset(features: Tensor) -> Tensor:
            return features[torch.randperm(len(features), generator=generator)[:size].to(features.device)].double()

        is_whole_sample = size == len(real_sample) == len(generated_sample)
        rounds = 1 if is_whole_sample else self.subsets
        values = torch.stack([poly_mmd(subset(real_sample), subset(generated_sample)) for _ in range(rounds)])
        return {"": float(values.mean()), "_std": float(values.std(correction=0))}
