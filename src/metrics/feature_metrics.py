"""One feature network and several distances, for which each image is read once, by one of the ranks."""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from src.core.distributed import broadcast_object, gather_rows, get_rank
from src.core.errors import UserError
from src.core.files import user_cache_dir, write_atomic
from src.metrics.features import FeatureNetwork
from src.metrics.frechet import Features, FrechetDistance

INCEPTION_NAMES = {"fid": "fd", "kid": "kd"}
FORMAT = "6"  # to be raised when a network's preprocessing or the content of the cached files changes
MIN_IMAGES_OF_FLOOR = 8
Distance = Callable[[Features, Features], dict[str, float]]  # of (real, generated): values by the suffix of their name


class FeatureMetrics:
    """Named distances on one network's features.

    A metric's name says its network, and numbers of different networks never share a name: `fid` and `kid` are on
    Inception-v3, `fd_lite0` and `kd_lite0` on EfficientNet-Lite0. Raises UserError for another network's name.
    """

    def __init__(self, features: FeatureNetwork, distances: dict[str, Distance]) -> None:
        self.features, self.distances = features, dict(distances)
        self.kept: dict[tuple[str, torch.device], Features] = {}  # of real images, so that moments are computed once
        self.to("cpu")
        for name in distances:
            if name in INCEPTION_NAMES and features.name != "inception":
                raise UserError(
                    f"{name} is a distance on Inception-v3 only: on {features.name} call it "
                    f"{INCEPTION_NAMES[name]}_{features.name}"
                )

    def to(self, device: torch.device | str) -> Self:
        """Move the network; distances are computed on its device too, or on the CPU if it has no float64 (MPS)."""
        self.features.to(device)
        self.device = torch.device(device)
        self.float64_device = torch.device("cpu") if self.device.type == "mps" else self.device
        return self

    def extract(self, batches: Iterable[Tensor]) -> Features:
        """Return the features of all ranks' images together: batches of uint8 (N, 3, H, W).

        Every rank must call it; their shares may differ in size, and be empty.
        """
        rows = (self.features(images.to(self.device)) for images in batches)
        return Features(gather_rows(rows, self.features.num_features, self.device), self.float64_device)

    def floors(self, more_real: Callable[[], Features], num_real: int, num_generated: int) -> dict[str, float]:
        """Return <name>_floor of each Frechet distance: about that of num_generated real images; {} if that is unknown.

        The bias for M and N images is nearly proportional to 1/M + 1/N (after Chong & Forsyth, 2020). more_real() gives
        features of real images, at least 8 and better more than there are features: the distance of their two halves
        says how large the bias is. num_real: images that the distance compares with.
        """
        names = [name for name, distance in self.distances.items() if isinstance(distance, FrechetDistance)]
        if not names or len(real := more_real()) < MIN_IMAGES_OF_FLOOR:
            return {}
        # Each half has N/2 images, so 1/M + 1/N is 4/N.
        bias = real.distance_of_halves * len(real) / 4
        return {f"{name}_floor": bias * (1 / num_real + 1 / num_generated) for name in names}

    def compare(self, real: Features, generated: Features, suffix: str = "") -> dict[str, float]:
        """Return the values of every distance by name, and a suffix."""
        return {
            f"{name}{part}{suffix}": value
            for name, distance in self.distances.items()
            for part, value in distance(real, generated).items()
        }

    def cached_features(
        self,
        batches: Callable[[], Iterable[Tensor]],
        data_digest: str,
        image_size: int,
        num_images: int,
        cache_dir: str | None = None,
    ) -> Features:
        """Return `extract(batches())`, from memory or from disk if it was computed before.

        data_digest stands for the images' content, order and subset; num_images are those of all ranks. Every rank must
        call it; rank zero reads and writes the file. A damaged one is replaced; an unwritable folder costs only time.
        """
        network = self.features.name
        # The name is another one whenever the features could be others.
        parts = [FORMAT, data_digest, image_size, num_images, network, self.features.digest]
        key = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:24]
        folder = Path(cache_dir).expanduser() if cache_dir else user_cache_dir() / "features"
        path = folder / f"{network}-{image_size}px-{num_images}-{key}.npz"
        if (found := self.kept.get((path.name, self.float64_device))) is not None:
            return found
        values = None
        if get_rank() == 0 and path.exists():
            try:
                with np.load(path) as archive:  # a zip file, which has checksums
                    values = torch.from_numpy(archive["features"])
            except Exception as error:  # a damaged file can raise anything, and the images are still there
                warnings.warn(f"{path} is damaged ({type(error).__name__}) and is computed again", stacklevel=2)
        values = broadcast_object(values, self.device)
        if values is None:
            values = self.extract(batches()).values
            if get_rank() == 0:
                try:
                    with io.BytesIO() as file:
                        np.savez(file, allow_pickle=False, features=values.numpy())
                        write_atomic(path, file.getvalue())
                except OSError as error:
                    warnings.warn(f"the features of the real images are not cached: {error}", stacklevel=2)
        features = self.kept[path.name, self.float64_device] = Features(values, self.float64_device)
        return features
