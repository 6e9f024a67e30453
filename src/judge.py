"""What a model is judged by: losses on given pictures, and distances of its samples from real ones."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from src.data.datamodule import ImageDataModule
from src.images import from_uint8
from src.metrics.cache import cached_statistics
from src.metrics.generation import FeatureMetrics
from src.models.generative_model import GenerativeModel
from src.progress import watched
from src.seeds import mixed_seed

Reference = Literal["train", "val"]
MOST = 50_000


def watched_share(
    data: ImageDataModule, reference: Reference, batch_size: int, most: int, title: str
) -> Iterator[Tensor]:
    """data.share, with progress on the screen; `title` has a place for the number of pictures."""
    num_pictures = len(data.pictures(reference, most))
    share = math.ceil(num_pictures / data.process()[1])
    return watched(data.share(reference, batch_size, most), share, title.format(f"{num_pictures:,}"))


@torch.no_grad()
def judge_losses(
    model: GenerativeModel, data: ImageDataModule, reference: Reference, most: int = MOST
) -> dict[str, float]:
    """The model's losses on at most so many pictures of a split, averaged over the pictures of all processes.

    Every process must call it; each reads its own share. With fewer pictures than processes there are none.
    """
    num_pictures = len(data.pictures(reference, most))
    if num_pictures < data.process()[1]:
        return {}
    sums: dict[str, Tensor] = {}
    # Always the same batches: a likelihood's optimal variance is that of a batch.
    for images in watched_share(data, reference, 64, most, "losses on {} pictures"):
        for name, values in model.evaluation_losses(model.like_weights(from_uint8(images))).items():
            sums[name] = sums.get(name, torch.zeros((), device=model.device)) + values.float().sum()
    if not sums:
        return {}
    totals = torch.stack(list(sums.values()))
    if data.trainer:
        totals = data.trainer.strategy.reduce(totals, reduce_op="sum")
    means = totals / num_pictures
    return dict(zip(sums, means.tolist(), strict=True))


@torch.no_grad()
def judge_samples(
    model: GenerativeModel,
    data: ImageDataModule,
    metrics: FeatureMetrics,
    num_images: int,
    reference: Reference,
    seed: int,
    batch_size: int,
    cache_dir: str | None = None,
    most: int = MOST,
) -> dict[str, float]:
    """Distances between num_images samples, drawn by all processes together, and the pictures of a split as they are,
    at most so many of them.

    Every process must call it. One process draws the pictures that src.sample draws for the seed.
    """
    rank, world_size = data.process()
    share = num_images // world_size + (rank < num_images % world_size)
    pictures = data.pictures(reference, most)
    metrics.to(model.device)
    real = cached_statistics(
        metrics,
        lambda: watched_share(data, reference, batch_size, most, "statistics of {} real pictures"),
        pictures.digest,
        data.image_size,
        len(pictures),
        cache_dir,
    )
    # Processes other than the first draw from seeds of their own.
    samples: Iterator[Tensor] = model.sample_uint8(share, mixed_seed(seed, rank) if rank else seed, batch_size)
    return metrics.compare(real, metrics.summarize(watched(samples, share, f"statistics of {num_images:,} samples")))
