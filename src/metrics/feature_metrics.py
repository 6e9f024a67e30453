"""One feature network and several distances, for which each image is read once, by one of the ranks."""

from collections.abc import Iterable
from typing import Protocol, Self

import torch
import torchmetrics
from torch import Tensor

from src.core.errors import UserError
from src.metrics.features import FeatureNetwork
from src.metrics.frechet import Statistics

INCEPTION_NAMES = {"fid": "fd", "kid": "kd"}


class Distance(Protocol):
    """A distance of generated images from real ones, such as FrechetDistance, on statistics of their features.

    Distances with the same statistics_key share their statistics.
    """

    @property
    def statistics_key(self) -> str: ...

    def statistics(self, num_features: int) -> torchmetrics.Metric: ...

    def __call__(self, real: Statistics, generated: Statistics) -> dict[str, float]: ...


class FeatureMetrics:
    """Named distances on one network's features.

    A metric's name says its network, and numbers of different networks never share a name: `fid` and `kid` are on
    Inception-v3, `fd_lite0` and `kd_lite0` on EfficientNet-Lite0. Raises UserError for another network's name.
    """

    def __init__(self, features: FeatureNetwork, distances: dict[str, Distance]) -> None:
        self.features = features
        self.distances = dict(distances)
        self.device = torch.device("cpu")
        for name in self.distances:
            if name in INCEPTION_NAMES and features.name != "inception":
                raise UserError(
                    f"{name} is a distance on Inception-v3 only: on {features.name} call it "
                    f"{INCEPTION_NAMES[name]}_{features.name}"
                )

    def to(self, device: torch.device | str) -> Self:
        self.features.to(device)
        self.device = torch.device(device)
        return self

    @property
    def gathered(self) -> dict[str, Distance]:
        """The statistics to gather, each by its key with one of the distances that use it."""
        return {distance.statistics_key: distance for distance in self.distances.values()}

    @property
    def statistics_device(self) -> torch.device:
        """The device of the statistics: the network's, or the CPU if that has no float64 (MPS)."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def summarize(self, batches: Iterable[Tensor]) -> dict[str, Statistics]:
        """Return the statistics of all ranks' images together, on the CPU: batches of uint8 (N, 3, H, W).

        Every rank must call it; their shares may differ in size, and be empty.
        """
        return self.summarize_features(self.features(images.to(self.device)) for images in batches)

    def summarize_features(self, batches: Iterable[Tensor]) -> dict[str, Statistics]:
        """Return the statistics of all ranks' features together, on the CPU: batches of (N, num_features)."""
        gathered = {
            key: distance.statistics(self.features.num_features).to(self.statistics_device)
            for key, distance in self.gathered.items()
        }
        # A rank without images must still offer (0, D) to the others.
        for metric in gathered.values():
            metric.update(torch.empty(0, self.features.num_features, device=self.statistics_device))
        for features in batches:
            for metric in gathered.values():
                metric.update(features)
        return {key: tuple(part.cpu() for part in metric.compute()) for key, metric in gathered.items()}

    def compare(self, real: dict[str, Statistics], generated: dict[str, Statistics]) -> dict[str, float]:
        """Return the values of every distance by name, from two results of `summarize`."""
        values: dict[str, float] = {}
        for name, distance in self.distances.items():
            sides = [side[distance.statistics_key] for side in (real, generated)]
            found = distance(*(tuple(part.to(self.statistics_device) for part in side) for side in sides))
            values |= {name + suffix: value for suffix, value in found.items()}
        return values
