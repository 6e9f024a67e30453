"""What a model is judged by: losses on given pictures, and distances of its samples from real ones."""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from src.data.datamodule import ImageDataModule
from src.images import from_uint8
from src.metrics.cache import cached_statistics
from src.metrics.codes import active_units
from src.metrics.frechet import Statistics
from src.metrics.generation import FeatureMetrics
from src.metrics.kernel import FeatureSample
from src.models.encoding_model import EncodingModel
from src.models.generative_model import GenerativeModel
from src.models.priors import Prior
from src.models.vae import VAE
from src.objectives.kl import kl_per_dimension
from src.progress import watched
from src.seeds import mixed_seed

Reference = Literal["train", "val"]
MOST = 50_000
MOST_CODES = 8_000  # that a mixture is fitted on
KL_SPECTRUM = "kl_nats_of_dimension/"


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


def real_statistics(
    metrics: FeatureMetrics,
    data: ImageDataModule,
    reference: Reference,
    batch_size: int,
    cache_dir: str | None,
    most: int,
) -> dict[str, Statistics]:
    """Of the pictures of a split as they are, at most so many of them; computed once. Every process must call it."""
    pictures = data.pictures(reference, most)
    return cached_statistics(
        metrics,
        lambda: watched_share(data, reference, batch_size, most, "statistics of {} real pictures"),
        pictures.digest,
        data.image_size,
        len(pictures),
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
    most: int = MOST,
    prior: Prior = "normal",
) -> dict[str, float]:
    """Distances between num_images samples, drawn by all processes together, and the pictures of a split as they are,
    at most so many of them. Names of distances from samples of another prior than N(0, I) end in its own.

    Every process must call it. One process draws the pictures that src.sample draws for the seed.
    """
    rank, world_size = data.process()
    share = num_images // world_size + (rank < num_images % world_size)
    real = real_statistics(metrics.to(model.device), data, reference, batch_size, cache_dir, most)
    # Processes other than the first draw from seeds of their own.
    samples: Iterator[Tensor] = model.sample_uint8(share, mixed_seed(seed, rank) if rank else seed, batch_size, prior)
    values = metrics.compare(real, metrics.summarize(watched(samples, share, f"statistics of {num_images:,} samples")))
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
    """What `encode` makes of at most so many pictures of a split, (N, width) on the CPU.

    Every process must call it; each reads its own share and gets what all of them have found.
    """
    gathered = FeatureSample(most).to(model.device)
    # A process without pictures must still offer (0, width) to the others.
    gathered.update(torch.empty(0, width, device=model.device))
    for images in watched_share(data, reference, 64, most, title):
        gathered.update(encode(model.like_weights(from_uint8(images))))
    return gathered.compute()[0].cpu()


def judge_posterior(model: GenerativeModel, data: ImageDataModule, reference: Reference, most: int) -> dict[str, float]:
    """A VAE's active units, and the mean KL of each of its dimensions in nats, the largest first.

    Every process must call it.
    """
    if not isinstance(model, VAE):
        return {}

    def encode(images: Tensor) -> Tensor:
        mean, log_variance = model.encode(images)
        return torch.cat([mean, kl_per_dimension(mean, log_variance)], dim=1)

    found = gather(encode, 2 * model.latent_dim, model, data, reference, most, "posteriors of {} pictures")
    means, kl = found.chunk(2, dim=1)
    spectrum = kl.mean(dim=0).sort(descending=True).values.tolist()
    return {"active_units": float(active_units(means))} | {
        f"{KL_SPECTRUM}{index:03d}": value for index, value in enumerate(spectrum)
    }


def fit_prior(model: GenerativeModel, data: ImageDataModule) -> None:
    """Fits the mixture of a model that encodes on codes of training pictures, unless it is fitted as the model stands.

    Every process must call it.
    """
    if not isinstance(model, EncodingModel) or int(model.mixture.fitted_at) == model.images_seen:
        return
    generator = torch.Generator().manual_seed(data.process()[0])
    codes = gather(
        lambda images: model.draw_codes(images, generator),
        model.latent_dim,
        model,
        data,
        "train",
        MOST_CODES,
        "codes of {} pictures",
    )
    model.mixture.fit(codes, model.images_seen)
    if data.trainer:
        model.share_buffers()
