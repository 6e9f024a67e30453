"""Statistics of the real images, which are computed once and cached on disk."""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.core.distributed import broadcast_object, get_rank
from src.core.files import user_cache_dir, write_atomic
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import Statistics

FORMAT = "3"  # to be raised when a network's preprocessing or the content of the files changes


def cached_statistics(
    metrics: FeatureMetrics,
    batches: Callable[[], Iterable[Tensor]],
    data_digest: str,
    image_size: int,
    num_images: int,
    cache_dir: str | None = None,
) -> dict[str, Statistics]:
    """Return `metrics.summarize(batches())`, read from disk if it was computed before.

    data_digest stands for the images' content, order and subset; image_size is in pixels; num_images counts the images
    of all ranks. Every rank must call it; rank zero reads and writes the file. A damaged file is replaced, and a folder
    that can't be written costs only time.
    """
    folder = Path(cache_dir).expanduser() if cache_dir else user_cache_dir() / "statistics"
    path = folder / cache_name(metrics, data_digest, image_size, num_images)
    statistics = broadcast_object(load(path, metrics) if get_rank() == 0 else None, metrics.statistics_device)
    if statistics is None:
        statistics = metrics.summarize(batches())
        if get_rank() == 0:
            save(statistics, path)
    return statistics


def cache_name(metrics: FeatureMetrics, data_digest: str, image_size: int, num_images: int) -> str:
    """Return a file name that is another one whenever the statistics could be others."""
    features = metrics.features
    parts = [FORMAT, data_digest, image_size, num_images, features.name, features.digest, *sorted(metrics.gathered)]
    key = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:24]
    return f"{features.name}-{image_size}px-{num_images}-{key}.npz"


def load(path: Path, metrics: FeatureMetrics) -> dict[str, Statistics] | None:
    """Return the statistics in a file, or None if there is no file or it is damaged (a zip archive has checksums)."""
    if not path.exists():
        return None
    statistics: dict[str, Statistics] = {}
    try:
        with np.load(path) as file:
            for name in file.files:
                key = name.partition("/")[0]
                statistics[key] = (*statistics.get(key, ()), torch.from_numpy(file[name]))
        return {key: statistics[key] for key in metrics.gathered}
    except Exception as error:  # a damaged file can raise anything, and the images are still there
        warnings.warn(f"{path} is damaged ({type(error).__name__}) and is computed again", stacklevel=3)
        return None


def save(statistics: dict[str, Statistics], path: Path) -> None:
    """Write statistics to a file; warn if that is not possible."""
    parts = {f"{key}/{index}": part.numpy() for key, parts in statistics.items() for index, part in enumerate(parts)}
    try:
        with io.BytesIO() as file:
            np.savez(file, allow_pickle=False, **parts)
            write_atomic(path, file.getvalue())
    except OSError as error:
        warnings.warn(f"the statistics of the real images are not cached: {error}", stacklevel=3)
