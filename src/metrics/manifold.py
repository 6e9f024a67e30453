"""Precision, recall, density and coverage of two samples of features, by balls around each out to its neighbors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.core.types import PositiveInt
from src.metrics.frechet import Features


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall (Kynkaanniemi et al., 2019), density and coverage (Naeem et al., 2020).

    A ball around each feature reaches to its `neighbors`-th nearest of the same kind (density and coverage:
    density_neighbors). Precision: the fraction of generated features in a ball of a real one; recall: of real ones in a
    ball of a generated one. Density: in how many real balls a generated feature lies, divided by density_neighbors;
    1 for real images, higher for typical ones. Coverage: the fraction of real balls in which a generated one lies.

    All fall or rise with the number of features, so both sides are cut to equally many, at most max_samples. The
    distances of all pairs are in memory: at 10,000, 1.2 GB with EfficientNet-Lite0 and 1.5 GB with Inception-v3.
    """

    neighbors: PositiveInt = 3
    density_neighbors: PositiveInt = 5
    max_samples: PositiveInt = 10_000

    def __call__(self, real: Features, generated: Features) -> dict[str, float]:
        """Return the values under the suffixes of their names; none where there are not as many images as neighbors."""
        sides = real.thinned(self.max_samples), generated.thinned(self.max_samples)
        size = min(map(len, sides))
        if size <= max(self.neighbors, self.density_neighbors):
            return {}
        positions = (torch.linspace(0, len(side) - 1, size).round().long() for side in sides)
        real_sample, generated_sample = (side[at].double() for side, at in zip(sides, positions, strict=True))
        radii, density_radii = self.radii(real_sample)
        generated_radii, _ = self.radii(generated_sample)
        distances = torch.cdist(real_sample, generated_sample)
        in_density_balls = distances <= density_radii[:, None]
        return {
            "_precision": float((distances <= radii[:, None]).any(dim=0).double().mean()),
            "_recall": float((distances <= generated_radii).any(dim=1).double().mean()),
            # Not `sum`, which would first make an int64 of each boolean.
            "_density": int(in_density_balls.count_nonzero()) / size / self.density_neighbors,
            "_coverage": float(in_density_balls.any(dim=1).double().mean()),
        }

    def radii(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance of each feature to its k-th nearest other, (N,), for both numbers of neighbors."""
        most = max(self.neighbors, self.density_neighbors)
        # The nearest of all is the feature itself.
        nearest = torch.cdist(features, features).topk(most + 1, largest=False).values
        return nearest[:, self.neighbors], nearest[:, self.density_neighbors]
