"""What a model is judged by: losses on given images, and distances of its samples from real ones."""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from src.core.images import from_uint8
from src.core.progress import track
from src.core.seeds import mixed_seed
from src.data.datamodule import ImageDataModule
from src.metrics.cache import cached_statistics
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import Statistics
from src.metrics.kernel import FeatureSample
from src.metrics.latents import active_units
from src.models.autoencoder import EncodingModel
from src.models.base import GenerativeModel
from src.models.priors import Prior
from src.models.vae import VAE
from src.objectives.kl import kl_per_dimension

Reference = Literal["train", "val"]
MAX_IMAGES = 50_000
MOST_CODES = 8_000  # that a mixture is fitted on
KL_SPECTRUM = "kl_nats_of_dimension/"


def watched_share(
    data: ImageDataModule, reference: Reference, batch_size: int, most: int, title: str
) -> Iterator[Tensor]:
    """data.share, with progress on the screen; `title` has a place for the number of images."""
    num_images = len(data.images(reference, most))
    share = math.ceil(num_images / data.rank_and_world_size()[1])
    return track(data.share(reference, batch_size, most), share, title.format(f"{num_images:,}"))


@torch.no_grad()
def judge_losses(
    model: GenerativeModel, data: ImageDataModule, reference: Reference, most: int = MAX_IMAGES
) -> dict[str, float]:
    """The model's losses on at most so many images of a split, averaged over the images of all processes.

    Every process must call it; each reads its own share. With fewer images than processes there are none.
    """
    num_images = len(data.images(reference, most))
    if num_images < data.rank_and_world_size()[1]:
        return {}
    sums: dict[str, Tensor] = {}
    for images in watched_share(data, reference, 64, most, "losses on {} images"):
        for name, values in model.evaluation_losses(from_uint8(images).to(model.device, model.dtype)).items():
            sums[name] = sums.get(name, torch.zeros((), device=model.device)) + values.float().sum()
    if not sums:
        return {}
    totals = torch.stack(list(sums.values()))
    if data.trainer:
        totals = data.trainer.strategy.reduce(totals, reduce_op="sum")
    means = totals / num_images
    return dict(zip(sums, means.tolist(), strict=True))


def real_statistics(
    metrics: FeatureMetrics,
    data: ImageDataModule,
    reference: Reference,
    batch_size: int,
    cache_dir: str | None,
    most: int,
) -> dict[str, Statistics]:
    """Of the images of a split as they are, at most so many of them; computed once. Every process must call it."""
    images = data.images(reference, most)
    return cached_statistics(
        metrics,
        lambda: watched_share(data, reference, batch_size, most, "statistics of {} real images"),
        images.digest,
        data.image_size,
        len(images),
        cache_dir,
    )


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
    most: int = MAX_IMAGES,
    prior: Prior = "normal",
) -> dict[str, float]:
    """Distances between num_images samples, drawn by all processes together, and the images of a split as they are,
    at most so many of them. Names of distances from samples of another prior than N(0, I) end in its own.

    Every process must call it. One process draws the images that src.sample draws for the seed.
    """
    rank, world_size = data.rank_and_world_size()
    share = num_images // world_size + (rank < num_images % world_size)
    real = real_statistics(metrics.to(model.device), data, reference, batch_size, cache_dir, most)
    # Processes other than the first draw from seeds of their own.
    samples: Iterator[Tensor] = model.sample_uint8(share, mixed_seed(seed, rank) if rank else seed, batch_size, prior)
    values = metrics.compare(real, metrics.summarize(track(samples, share, f"statistics of {num_images:,} samples")))
    return {name if prior == "normal" else f"{name}_{prior}": value for name, value in values.items()}


@torch.no_grad()
def gather(
    encode: Callable[[Tensor], Tensor],
    width: int,
    model: GenerativeModel,
    data: ImageDataModule,
    reference: Reference,
    most: int,
    title: str,
) -> Tensor:
    """What `encode` makes of at most so many images of a split, (N, width) on the CPU.

    Every process must call it; each reads its own share and gets what all of them have found.
    """
    gathered = FeatureSample(most).to(model.device)
    # A process without images must still offer (0, width) to the others.
    gathered.update(torch.empty(0, width, device=model.device))
    for images in watched_share(data, reference, 64, most, title):
        gathered.update(encode(from_uint8(images).to(model.device, model.dtype)))
    return gathered.compute()[0].cpu()


def judge_posterior(model: GenerativeModel, data: ImageDataModule, reference: Reference, most: int) -> dict[str, float]:
    """A VAE's active units, and the mean KL of each of its dimensions in nats, the largest first.

    Every process must call it.
    """
    if not isinstance(model, VAE):
        return {}

    def encode(images: Tensor) -> Tensor:
        mean, log_variance = model.posterior(images)
        return torch.cat([mean, kl_per_dimension(mean, log_variance)], dim=1)

    found = gather(encode, 2 * model.latent_dim, model, data, reference, most, "posteriors of {} images")
    means, kl = found.chunk(2, dim=1)
    spectrum = kl.mean(dim=0).sort(descending=True).values.tolist()
    return {"active_units": float(active_units(means))} | {
        f"{KL_SPECTRUM}{index:03d}": value for index, value in enumerate(spectrum)
    }


def fit_prior(model: GenerativeModel, data: ImageDataModule) -> None:
    """Fits the mixture of a model that encodes on codes of training images, unless it is fitted as the model stands.

    Every process must call it.
    """
    if not isinstance(model, EncodingModel) or int(model.mixture.fitted_at) == model.images_seen:
        return
    generator = torch.Generator().manual_seed(data.rank_and_world_size()[0])
    codes = gather(
        lambda images: model.sample_posterior(images, generator),
        model.latent_dim,
        model,
        data,
        "train",
        MOST_CODES,
        "codes of {} images",
    )
    model.mixture.fit(codes, model.images_seen)
    if data.trainer:
        model.broadcast_buffers()
