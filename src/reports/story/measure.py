"""The measurements that the page shows and describes, on equally many images of every kind."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from src.core.images import from_uint8
from src.evaluation.latent_space import decode, encode
from src.metrics.features import FeatureNetwork
from src.metrics.frechet import Features, FrechetDistance
from src.models.autoencoder import EncodingModel
from src.models.base import GenerativeModel

BATCH_SIZE = 64


@dataclass(frozen=True)
class MeasuredImages:
    """Images, uint8 (N, 3, S, S), each one's distance to its nearest training image, (N,), and all images' distance."""

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
    """The distance of images from training images, uint8, in the features of a network trained on neither."""

    def __init__(self, network: FeatureNetwork, training: Tensor) -> None:
        self.network = network
        self.training = self.features(training)

    def features(self, images: Tensor) -> Features:
        return Features(torch.cat([self.network(batch) for batch in images.split(BATCH_SIZE)]))

    def measure(self, images: Tensor) -> MeasuredImages:
        features = self.features(images)
        nearest = torch.cdist(features.values, self.training.values).amin(dim=1)
        return MeasuredImages(images, nearest, FrechetDistance()(self.training, features)[""])


@dataclass(frozen=True)
class MeasuredModel:
    """Samples from N(0, I), and for models that encode the rest; a model without a KL term has no kl_nats.

    mixture_samples: from the mixture fitted to latents of training images.
    reconstructions: of held-out images; psnr: theirs, in decibels; kl_nats: of the held-out images.
    latents: (N, D), of training images as the decoder meets them in training (a VAE's aggregate posterior).
    """

    samples: MeasuredImages
    mixture_samples: MeasuredImages | None = None
    reconstructions: MeasuredImages | None = None
    latents: Tensor | None = None
    psnr: float | None = None
    kl_nats: float | None = None


@torch.no_grad()
def measure(
    model: GenerativeModel, training: Tensor, held_out: Tensor, distance: FeatureDistance, seed: int
) -> MeasuredModel:
    """Measure a model, its mixture fitted if it encodes, by as many samples as held-out images, uint8 (N, 3, S, S)."""
    samples, *of_mixture = (
        distance.measure(torch.cat(list(model.sample_uint8(len(held_out), seed, prior)))) for prior in model.priors()
    )
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
    reconstructions = distance.measure(restored)
    return MeasuredModel(samples, of_mixture[0], reconstructions, torch.cat(latents), psnr.item(), kl_nats)
