"""The measurements that the page shows and describes, on equally many images of every kind."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from src.core.images import from_uint8
from src.data.dataset import ImageDataset
from src.evaluation.latent_space import decode, encode
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.features import FeatureNetwork
from src.metrics.frechet import FrechetDistance
from src.models.autoencoder import EncodingModel
from src.models.base import GenerativeModel

BATCH_SIZE = 64


@dataclass(frozen=True)
class MeasuredImages:
    """Images, uint8 (N, 3, S, S), and their feature distances.

    distances: (N,), from each to its nearest training image. frechet: from all of them to the training images.
    """

    images: Tensor
    distances: Tensor
    frechet: float

    @property
    def median(self) -> float:
        return self.distances.median().item()

    def fraction_beyond(self, others: "MeasuredImages", quantile: float = 0.95) -> float:
        """Return the fraction that is farther from the training images than this quantile of the others."""
        return (self.distances > others.distances.quantile(quantile)).float().mean().item()


class FeatureDistance:
    """The distance of images from training images, in the features of a network that was trained on neither."""

    def __init__(self, network: FeatureNetwork, training: ImageDataset) -> None:
        self.metrics = FeatureMetrics(network, {"frechet": FrechetDistance()})
        self.training = torch.cat([network(batch) for batch in training.batches(BATCH_SIZE)])
        self.statistics = self.metrics.summarize_features([self.training])

    def measure(self, images: Tensor) -> MeasuredImages:
        features = torch.cat([self.metrics.features(batch) for batch in images.split(BATCH_SIZE)])
        nearest = torch.cdist(features, self.training).amin(dim=1)
        distances = self.metrics.compare(self.statistics, self.metrics.summarize_features([features]))
        return MeasuredImages(images, nearest, distances["frechet"])


@dataclass(frozen=True)
class MeasuredModel:
    """Samples from N(0, I), and for models that encode the rest; a model without a KL term has no kl_nats.

    latents: (N, D), of training images as the decoder meets them in training (a VAE's aggregate posterior).
    reconstructions: of held-out images; psnr: theirs, in decibels; kl_nats: of the held-out images.
    mixture_samples: from the mixture fitted to latents of training images.
    """

    samples: MeasuredImages
    latents: Tensor | None = None
    reconstructions: MeasuredImages | None = None
    mixture_samples: MeasuredImages | None = None
    psnr: float | None = None
    kl_nats: float | None = None


@torch.no_grad()
def measure(
    model: GenerativeModel, training: Tensor, held_out: Tensor, distance: FeatureDistance, seed: int
) -> MeasuredModel:
    """Measure a model, whose mixture must be fitted if it encodes: as many samples as there are held-out images.

    training, held_out: uint8 (N, 3, S, S), to be encoded.
    """
    num_images = len(held_out)
    samples = distance.measure(torch.cat(list(model.sample_uint8(num_images, seed, BATCH_SIZE))))
    if not isinstance(model, EncodingModel):
        return MeasuredModel(samples)
    generator = torch.Generator().manual_seed(seed)
    latents = [model.sample_posterior(from_uint8(batch), generator) for batch in training.split(BATCH_SIZE)]
    restored = decode(model, encode(model, held_out))
    psnr = peak_signal_noise_ratio(
        restored.float(), held_out.float(), data_range=255.0, reduction="elementwise_mean", dim=(1, 2, 3)
    )
    losses = [model.losses(from_uint8(batch)) for batch in held_out.split(BATCH_SIZE)]
    kl_nats = torch.cat([batch["kl_nats"] for batch in losses]).mean().item() if "kl_nats" in losses[0] else None
    mixture_samples = torch.cat(list(model.sample_uint8(num_images, seed, BATCH_SIZE, "mixture")))
    return MeasuredModel(
        samples,
        torch.cat(latents),
        distance.measure(restored),
        distance.measure(mixture_samples),
        psnr.item(),
        kl_nats,
    )
