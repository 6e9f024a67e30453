"""Precision, recall, density and coverage of two samples of features, by balls around each out to its neighbors."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from src.core.types import PositiveInt

ROWS = 1_000  # distances of so many features to all others are in memory at a time


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall (Kynkaanniemi et al., 2019), density and coverage (Naeem et al., 2020).

    A ball around each feature reaches to its `neighbors`-th nearest of the same kind (density and coverage:
    density_neighbors). Precision: the fraction of generated features in a ball of a real one; recall: of real ones in a
    ball of a generated one. Density: in how many real balls a generated feature lies, divided by density_neighbors;
    1 for real images, higher for typical ones. Coverage: the fraction of real balls in which a generated one lies.

    All fall or rise with the number of features, so both sides are cut to equally many, at most max_samples.
    """

    neighbors: PositiveInt = 3
    density_neighbors: PositiveInt = 5
    max_samples: PositiveInt = 10_000

    def __call__(self, real: Tensor, generated: Tensor) -> dict[str, float]:
        """Return the values under the suffixes of their names; none where there are not as many images as neighbors."""
        size = min(len(real), len(generated))
        if size <= max(self.neighbors, self.density_neighbors):
            return {}
        real, generated = (side[torch.linspace(0, len(side) - 1, size).round().long()] for side in (real, generated))
        real, generated = real.double(), generated.double()
        radii = self.radii(real)
        generated_radii = self.radii(generated)[self.neighbors]
        inside, balls = torch.zeros(size, dtype=torch.bool, device=real.device), real.new_zeros(size)
        recalled, covered = 0, 0
        for rows, distances in blocks(real, generated):
            inside |= (distances <= radii[self.neighbors][rows, None]).any(dim=0)
            recalled += int((distances <= generated_radii).any(dim=1).sum())
            in_balls = distances <= radii[self.density_neighbors][rows, None]
            balls += in_balls.sum(dim=0)
            covered += int(in_balls.any(dim=1).sum())
        return {
            "_precision": float(inside.double().mean()),
            "_recall": recalled / size,
            "_density": float(balls.mean()) / self.density_neighbors,
            "_coverage": covered / size,
        }

    def radii(self, features: Tensor) -> dict[int, Tensor]:
        """Return the distance of each feature to its k-th nearest other, (N,), for both numbers of neighbors."""
        wanted = {self.neighbors, self.density_neighbors}
        # The nearest of all is the feature itself.
        nearest = torch.cat(
            [part.topk(max(wanted) + 1, largest=False).values for _, part in blocks(features, features)]
        )
        return {k: nearest[:, k] for k in wanted}


def blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield some rows of `a` at a time, and their distances to all of `b`: (M, D), (N, D) -> (at most ROWS, N)."""
    for start in range(0, len(a), ROWS):
        rows = slice(start, start + ROWS)
        yield rows, torch.cdist(a[rows], b)
