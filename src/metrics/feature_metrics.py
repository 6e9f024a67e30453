"""One feature network and several distances, for which each image is read once, by one of the ranks."""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from src.core.distributed import broadcast_object, get_rank
from src.core.errors import UserError
from src.core.files import user_cache_dir, write_atomic
from src.metrics.features import FeatureNetwork
from src.metrics.frechet import FeatureMoments
from src.metrics.kernel import FeatureSample

INCEPTION_NAMES = {"fid": "fd", "kid": "kd"}
FORMAT = "4"  # to be raised when a network's preprocessing or the content of the cached files changes
Statistics = dict[str, Tensor]


class Distance(Protocol):
    """A distance of generated images from real ones, such as FrechetDistance, on statistics of their features.

    max_samples: how many features make a FeatureSample, which the distance compares; 0 for FeatureMoments.
    """

    @property
    def max_samples(self) -> int: ...

    def __call__(self, real: Tensor, generated: Tensor) -> dict[str, float]: ...


class FeatureMetrics:
    """Named distances on one network's features.

    A metric's name says its network, and numbers of different networks never share a name: `fid` and `kid` are on
    Inception-v3, `fd_lite0` and `kd_lite0` on EfficientNet-Lite0. Raises UserError for another network's name.
    """

    def __init__(self, features: FeatureNetwork, distances: dict[str, Distance]) -> None:
        self.features, self.distances = features, dict(distances)
        self.gathered = {statistics_key(distance): distance.max_samples for distance in distances.values()}
        self.to("cpu")
        for name in distances:
            if name in INCEPTION_NAMES and features.name != "inception":
                raise UserError(
                    f"{name} is a distance on Inception-v3 only: on {features.name} call it "
                    f"{INCEPTION_NAMES[name]}_{features.name}"
                )

    def to(self, device: torch.device | str) -> Self:
        """Move the network; the statistics are on its device too, or on the CPU if it has no float64 (MPS)."""
        self.features.to(device)
        self.device = torch.device(device)
        self.statistics_device = torch.device("cpu") if self.device.type == "mps" else self.device
        return self

    def summarize(self, batches: Iterable[Tensor]) -> Statistics:
        """Return the statistics of all ranks' images together, on the CPU: batches of uint8 (N, 3, H, W).

        Every rank must call it; their shares may differ in size, and be empty.
        """
        return self.summarize_features(self.features(images.to(self.device)) for images in batches)

    def summarize_features(self, batches: Iterable[Tensor]) -> Statistics:
        """Return the statistics of all ranks' features together, on the CPU: batches of (N, num_features)."""
        width, device = self.features.num_features, self.statistics_device
        gathered = {
            key: (FeatureSample(max_samples) if max_samples else FeatureMoments(width)).to(device)
            for key, max_samples in self.gathered.items()
        }
        # A rank without images must still offer (0, D) to the others.
        for features in chain([torch.empty(0, width, device=device)], batches):
            for metric in gathered.values():
                metric.update(features)
        return {key: metric.compute().cpu() for key, metric in gathered.items()}

    def compare(self, real: Statistics, generated: Statistics, suffix: str = "") -> dict[str, float]:
        """Return the values of every distance by name, and a suffix, from two results of `summarize`."""
        values: dict[str, float] = {}
        for name, distance in self.distances.items():
            sides = (side[statistics_key(distance)].to(self.statistics_device) for side in (real, generated))
            values |= {f"{name}{part}{suffix}": value for part, value in distance(*sides).items()}
        return values

    def cached_statistics(
        self,
        batches: Callable[[], Iterable[Tensor]],
        data_digest: str,
        image_size: int,
        num_images: int,
        cache_dir: str | None = None,
    ) -> Statistics:
        """Return `summarize(batches())` of real images, read from disk if it was computed before.

        data_digest stands for the images' content, order and subset; num_images are those of all ranks. Every rank must
        call it; rank zero reads and writes the file. A damaged one is replaced; an unwritable folder costs only time.
        """
        folder = Path(cache_dir).expanduser() if cache_dir else user_cache_dir() / "statistics"
        path = folder / self.cache_name(data_digest, image_size, num_images)
        statistics = None
        if get_rank() == 0 and path.exists():
            try:
                with np.load(path) as archive:  # a zip file, which has checksums
                    statistics = {key: torch.from_numpy(archive[key]) for key in self.gathered}
            except Exception as error:  # a damaged file can raise anything, and the images are still there
                warnings.warn(f"{path} is damaged ({type(error).__name__}) and is computed again", stacklevel=2)
        statistics = broadcast_object(statistics, self.statistics_device)
        if statistics is not None:
            return statistics
        statistics = self.summarize(batches())
        if get_rank() == 0:
            try:
                with io.BytesIO() as file:
                    np.savez(file, allow_pickle=False, **{key: value.numpy() for key, value in statistics.items()})
                    write_atomic(path, file.getvalue())
            except OSError as error:
                warnings.warn(f"the statistics of the real images are not cached: {error}", stacklevel=2)
        return statistics

    def cache_name(self, data_digest: str, image_size: int, num_images: int) -> str:
        """Return a file name that is another one whenever the statistics could be others."""
        name, parts = self.features.name, [FORMAT, data_digest, image_size, num_images]
        parts += [name, self.features.digest, *sorted(self.gathered)]
        key = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:24]
        return f"{name}-{image_size}px-{num_images}-{key}.npz"


def statistics_key(distance: Distance) -> str:
    """Return the name of the statistics that a distance compares; distances of the same name share them."""
    return f"sample-{distance.max_samples}" if distance.max_samples else "moments"
