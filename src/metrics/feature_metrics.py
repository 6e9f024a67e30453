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
from src.metrics.frechet import FeatureMoments, FrechetDistance, frechet_distance
from src.metrics.kernel import FeatureSample

INCEPTION_NAMES = {"fid": "fd", "kid": "kd"}
FORMAT = "5"  # to be raised when a network's preprocessing or the content of the cached files changes
# Further statistics of real images: the moments of every second one and of the others, and the bias that follows.
HALVES = {"even": 0, "odd": 1}
BIAS = "bias"
MIN_IMAGES_OF_FLOOR = 8
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
        self.frechet = [name for name, distance in distances.items() if isinstance(distance, FrechetDistance)]
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

    def summarize_features(self, batches: Iterable[Tensor], halves: dict[str, int] | None = None) -> Statistics:
        """Return the statistics of all ranks' features together, on the CPU: batches of (N, num_features).

        halves: names of further moments, of every second feature from that position on.
        """
        width, device, halves, seen = self.features.num_features, self.statistics_device, halves or {}, 0
        gathered = {
            key: (FeatureSample(max_samples) if max_samples else FeatureMoments(width)).to(device)
            for key, max_samples in (self.gathered | dict.fromkeys(halves, 0)).items()
        }
        # A rank without images must still offer (0, D) to the others.
        for features in chain([torch.empty(0, width, device=device)], batches):
            for key, metric in gathered.items():
                metric.update(features[(halves[key] - seen) % 2 :: 2] if key in halves else features)
            seen += len(features)
        return {key: metric.compute().cpu() for key, metric in gathered.items()}

    def summarize_real(self, batches: Iterable[Tensor], num_images: int) -> Statistics:
        """Return `summarize(batches)` of real images, and the bias of their Frechet distance if they are enough."""
        has_floor = bool(self.frechet) and num_images >= MIN_IMAGES_OF_FLOOR
        features = (self.features(images.to(self.device)) for images in batches)
        statistics = self.summarize_features(features, HALVES if has_floor else {})
        if has_floor:
            even, odd = (statistics.pop(half).to(self.statistics_device) for half in HALVES)
            # Two halves, of which each has N/2 images.
            statistics[BIAS] = frechet_distance(even[0], even[1:], odd[0], odd[1:]).cpu() * num_images / 4
        return statistics

    def floors(self, real: Statistics, num_real: int, num_generated: int) -> dict[str, float]:
        """Return <name>_floor of each Frechet distance: about what num_generated real images would have.

        The distance's bias is nearly proportional to 1/M + 1/N (after Chong & Forsyth, 2020), so two halves tell it.
        """
        floor = float(real.get(BIAS, torch.nan)) * (1 / num_real + 1 / num_generated)
        return {f"{name}_floor": floor for name in self.frechet if BIAS in real}

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
        """Return `summarize_real(batches())`, read from disk if it was computed before.

        data_digest stands for the images' content, order and subset; num_images are those of all ranks. Every rank must
        call it; rank zero reads and writes the file. A damaged one is replaced; an unwritable folder costs only time.
        """
        folder = Path(cache_dir).expanduser() if cache_dir else user_cache_dir() / "statistics"
        path = folder / self.cache_name(data_digest, image_size, num_images)
        statistics = None
        if get_rank() == 0 and path.exists():
            try:
                with np.load(path) as archive:  # a zip file, which has checksums
                    statistics = {key: torch.from_numpy(archive[key]) for key in {*self.gathered, *archive}}
            except Exception as error:  # a damaged file can raise anything, and the images are still there
                warnings.warn(f"{path} is damaged ({type(error).__name__}) and is computed again", stacklevel=2)
        statistics = broadcast_object(statistics, self.statistics_device)
        if statistics is not None:
            return statistics
        statistics = self.summarize_real(batches(), num_images)
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
        parts += [name, self.features.digest, *sorted(self.gathered), BIAS if self.frechet else ""]
        key = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:24]
        return f"{name}-{image_size}px-{num_images}-{key}.npz"


def statistics_key(distance: Distance) -> str:
    """Return the name of the statistics that a distance compares; distances of the same name share them."""
    return f"sample-{distance.max_samples}" if distance.max_samples else "moments"
