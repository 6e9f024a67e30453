"""One feature network and several distances: each image is read once, on every rank its own share."""

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
    """What FrechetDistance and KernelDistance are; `statistics_key` names what `statistics` gathers."""

    @property
    def statistics_key(self) -> str: ...

    def statistics(self, num_features: int) -> torchmetrics.Metric: ...

    def __call__(self, real: Statistics, generated: Statistics) -> dict[str, float]: ...


class FeatureMetrics:
    """Named distances on one network's features.

    Raises UserError for a name that belongs to another network.
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
        """What there is to gather, by its key, and a distance that gathers it: several may share it."""
        return {distance.statistics_key: distance for distance in self.distances.values()}

    @property
    def statistics_device(self) -> torch.device:
        """Where float64 is at hand: MPS has none."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def summarize(self, batches: Iterable[Tensor]) -> dict[str, Statistics]:
        """Statistics on the CPU of all ranks' uint8 (N, 3, H, W) batches together, by what the distances gather.

        Every rank must call it; shares may differ in size, and be empty.
        """
        gathered = {
            key: distance.statistics(self.features.num_features).to(self.statistics_device)
            for key, distance in self.gathered.items()
        }
        # A rank without images must still offer (0, D) to the others.
        for metric in gathered.values():
            metric.update(torch.empty(0, self.features.num_features, device=self.statistics_device))
        for images in batches:
            features = self.features(images.to(self.device))
            for metric in gathered.values():
                metric.update(features)
        return {key: tuple(part.cpu() for part in metric.compute()) for key, metric in gathered.items()}

    def compare(self, real: dict[str, Statistics], generated: dict[str, Statistics]) -> dict[str, float]:
        """Every distance's values by name, from two results of `summarize`."""
        values = {}
        for name, distance in self.distances.items():
            key = distance.statistics_key
            ours = [tuple(part.to(self.statistics_device) for part in side[key]) for side in (real, generated)]
            values.update({name + suffix: value for suffix, value in distance(*ours).items()})
        return values
