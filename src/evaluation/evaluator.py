"""The evaluation of a model: its losses on given images, and distances of its samples from real ones."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from src.core.distributed import gather_rows
from src.core.images import from_uint8
from src.core.progress import track
from src.core.seeds import mixed_seed
from src.data.datamodule import ImageDataModule
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import Features
from src.metrics.latents import active_units
from src.models.autoencoder import EncodingModel
from src.models.inference import LatentModel
from src.models.vae import VAE
from src.objectives.kl import kl_per_dimension

Split = Literal["train", "val"]
BATCH_SIZE = 64  # images that are handled at a time
IMAGES_OF_FLOOR = 2_560  # twice the features of EfficientNet-Lite0
MIXTURE_LATENTS = 8_000  # latents that a mixture is fitted on, at most
KL_SPECTRUM = "kl_nats_of_dimension/"


@dataclass(frozen=True)
class Evaluator:
    """A model in evaluation mode, the images it is compared with, and the metrics that compare them.

    Every rank must call each method. Each handles its own part of the images, and all get the same results.
    """

    model: LatentModel
    data: ImageDataModule
    feature_metrics: Sequence[FeatureMetrics] = ()
    num_images: int = 1_000  # samples that all ranks draw together
    reference: Split = "train"  # the images that samples are compared with
    seed: int = 0  # of the samples; rank zero draws what src.sample draws
    max_reference_images: int = 50_000  # of a split; of more, every second, third, ... is taken
    cache_dir: str | None = None  # the folder of the real images' features; None: the user's cache

    @property
    def unseen(self) -> Split:
        """The split that losses, bounds and reconstructions are of: the held-out images where there are any."""
        self.data.setup()
        return "val" if len(self.data.val) else self.reference

    def number_of(self, split: Split, max_images: int | None = None) -> str:
        """Return how many images of a split are used, in words."""
        count = len(self.data.images(split, max_images or self.max_reference_images))
        return f"{count:,} {'held-out' if split == 'val' else 'training'} images"

    @torch.no_grad()
    def losses(self, split: Split) -> dict[str, float]:
        """Return the means of the model's losses over a split's images; none for fewer images than ranks."""
        if len(self.data.images(split, self.max_reference_images)) < self.data.rank_and_world_size()[1]:
            return {}
        means: defaultdict[str, MeanMetric] = defaultdict(lambda: MeanMetric("disable").to(self.model.device))
        for images in self.batches(split, "losses on {} images"):
            for name, values in self.model.losses(self.inputs(images)).items():
                means[name].update(values)
        return {name: float(mean.compute()) for name, mean in means.items()}

    def posterior(self, split: Split, max_images: int | None = None) -> dict[str, float]:
        """Return a VAE's active units and the mean KL of each of its dimensions in nats, the largest first."""
        model = self.model
        if not isinstance(model, VAE):
            return {}

        def encode(images: Tensor) -> Tensor:
            mean, log_variance = model.posterior(images)
            return torch.cat([mean, kl_per_dimension(mean, log_variance)], dim=1)

        gathered = self.gather(encode, 2 * model.latent_dim, split, "posteriors of {} images", max_images)
        means, kl = gathered.chunk(2, dim=1)
        spectrum = kl.mean(dim=0).sort(descending=True).values.tolist()
        values = {f"{KL_SPECTRUM}{index:03d}": value for index, value in enumerate(spectrum)}
        return ({"active_units": float(active_units(means))} if len(means) > 1 else {}) | values

    @torch.no_grad()
    def sample_metrics(self) -> dict[str, float]:
        """Return every distance of samples, once for each prior, and <name>_floor: about that of as many real images.

        Names end in the prior (fd_lite0_mixture), but for N(0, I).
        """
        rank, world_size = self.data.rank_and_world_size()
        part = self.num_images // world_size + (rank < self.num_images % world_size)
        seed = mixed_seed(self.seed, rank) if rank else self.seed
        values: dict[str, float] = {}
        for metrics in self.feature_metrics:
            real = self.real_features(metrics, self.reference, self.max_reference_images)
            for prior in self.model.priors():
                samples = self.model.sample_uint8(part, seed, prior)
                tracked = track(samples, part, f"features of {self.num_images:,} samples")
                suffix = "" if prior == "normal" else f"_{prior}"
                values |= metrics.compare(real, metrics.extract(tracked), suffix)
            values |= metrics.floors(partial(self.many_real_features, metrics, real), len(real), self.num_images)
        return values

    def many_real_features(self, metrics: FeatureMetrics, real: Features) -> Features:
        """Return the reference images' features, or where those are few, those of more training images."""
        if len(real) >= min(IMAGES_OF_FLOOR, len(self.data.images("train"))):
            return real
        return self.real_features(metrics, "train", IMAGES_OF_FLOOR)

    def real_features(self, metrics: FeatureMetrics, split: Split, max_images: int) -> Features:
        """Return the features of a split's images, not augmented, which are computed once and cached."""
        images = self.data.images(split, max_images)
        batches = partial(self.batches, split, "features of {} real images", max_images)
        key = images.digest, self.data.image_size, len(images)
        return metrics.to(self.model.device).cached_features(batches, *key, self.cache_dir)

    def fit_prior(self) -> None:
        """Fit the mixture of a model that encodes to latents of training images, unless it is up to date."""
        model = self.model
        if not isinstance(model, EncodingModel) or model.mixture.fitted_at == model.images_seen:
            return
        generator = torch.Generator().manual_seed(self.data.rank_and_world_size()[0])
        encode = partial(model.sample_posterior, generator=generator)
        latents = self.gather(encode, model.latent_dim, "train", "latents of {} images", MIXTURE_LATENTS)
        model.mixture.fit(latents, model.images_seen)
        if self.data.trainer:
            model.broadcast_buffers()

    @torch.no_grad()
    def gather(
        self, encode: Callable[[Tensor], Tensor], width: int, split: Split, title: str, max_images: int | None = None
    ) -> Tensor:
        """Return what `encode` maps a split's images to, on all ranks together: (N, width) on the CPU."""
        rows = (encode(self.inputs(images)) for images in self.batches(split, title, max_images))
        return gather_rows(rows, width, self.model.device)

    def batches(self, split: Split, title: str, max_images: int | None = None) -> Iterator[Tensor]:
        """Yield this rank's uint8 batches of a split, with progress; the title's {} is the number on all ranks."""
        max_images = max_images or self.max_reference_images
        num_images = len(self.data.images(split, max_images))
        part = math.ceil(num_images / self.data.rank_and_world_size()[1])
        return track(self.data.share(split, BATCH_SIZE, max_images), part, title.format(f"{num_images:,}"))

    def inputs(self, images: Tensor) -> Tensor:
        """Return uint8 images as the model takes them: in [-1, 1], on its device, in its precision."""
        return from_uint8(images).to(self.model.device, self.model.dtype)
