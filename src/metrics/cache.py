"""Statistics of the real images are computed once and kept on disk."""

import hashlib
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from src.core.distributed import broadcast_object, get_rank
from src.core.files import user_cache_dir
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import Statistics

FORMAT = "2"  # raise it when a network's preprocessing or the content of the files changes


def cached_statistics(
    metrics: FeatureMetrics,
    batches: Callable[[], Iterable[Tensor]],
    data_digest: str,
    image_size: int,
    num_images: int,
    cache_dir: str | None = None,
) -> dict[str, Statistics]:
    """`metrics.summarize(batches())`, from disk where it has been computed before.

    `data_digest` stands for the images' content, order and subset; `image_size` is in pixels; `num_images` counts
    those of all ranks. Every rank must call it; rank zero reads and writes the file. A damaged file is replaced.
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
    """A file name that differs whenever the statistics could."""
    features = metrics.features
    gathered = sorted(metrics.gathered)
    parts = [FORMAT, data_digest, str(image_size), str(num_images), features.name, features.digest, *gathered]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    return f"{features.name}-{image_size}px-{num_images}-{key}.pt"


def load(path: Path, metrics: FeatureMetrics) -> dict[str, Statistics] | None:
    if not path.exists():
        return None
    try:
        # torch.load does not look at the checksums that torch.save writes.
        if zipfile.ZipFile(path).testzip():
            raise zipfile.BadZipFile
        statistics: dict[str, Statistics] = torch.load(path, map_location="cpu", weights_only=True)
        return {key: tuple(statistics[key]) for key in metrics.gathered}
    except Exception as error:  # whatever a damaged file raises: the images are still there
        warnings.warn(f"{path} is damaged ({type(error).__name__}) and is computed again", stacklevel=3)
        return None


def save(statistics: dict[str, Statistics], path: Path) -> None:
    """All or nothing: no reader ever sees half a file. A folder that cannot be written costs only time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
            try:
                torch.save(statistics, file)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except (OSError, RuntimeError) as error:
        warnings.warn(f"the statistics of the real images are not kept: {error}", stacklevel=3)
