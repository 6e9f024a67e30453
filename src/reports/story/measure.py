"""The measurements that the page shows and describes, on equally many images of every kind."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from src.core.images import from_uint8
from src.evaluation.evaluator import BATCH_SIZE, Evaluator
from src.evaluation.latent_space import decode, encode
from src.evaluation.representation import reconstruction_metrics
from src.metrics.features import FeatureNetwork
from src.metrics.frechet import Features, FrechetDistance
from src.models.autoencoder import EncodingModel


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
        self.network, self.training = network, Features(network(training))

    def measure(self, images: Tensor) -> MeasuredImages:
        features = Features(self.network(images))
        nearest = torch.cdist(features.values, self.training.values).amin(dim=1)
        return MeasuredImages(images, nearest, FrechetDistance()(self.training, features)[""])


@dataclass(frozen=True)
class MeasuredModel:
    """Samples from N(0, I), and for models that encode the rest.

    mixture_samples: from the mixture fitted to latents of training images.
    reconstructions: of held-out images.
    latents: (N, D), of training images as the decoder meets them in training (a VAE's aggregate posterior).
    metrics: of held-out images: losses, psnr and ssim.
    """

    samples: MeasuredImages
    mixture_samples: MeasuredImages | None = None
    reconstructions: MeasuredImages | None = None
    latents: Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def measure(evaluator: Evaluator, training: Tensor, held_out: Tensor, distance: FeatureDistance) -> MeasuredModel:
    """Measure a model by as many samples as held-out images, uint8 (N, 3, S, S); fit its mixture if it encodes."""
    evaluator.fit_prior()
    model, seed = evaluator.model, evaluator.seed
    samples, *of_mixture = (
        distance.measure(torch.cat(list(model.sample_uint8(len(held_out), seed, prior)))) for prior in model.priors()
    )
    if not isinstance(model, EncodingModel):
        return MeasuredModel(samples)
    generator = torch.Generator().manual_seed(seed)
    latents = [model.sample_posterior(from_uint8(batch), generator) for batch in training.split(BATCH_SIZE)]
    reconstructions = distance.measure(decode(model, encode(model, held_out)))
    metrics = evaluator.losses("val") | reconstruction_metrics(evaluator, model, evaluator.max_reference_images)
    return MeasuredModel(samples, of_mixture[0], reconstructions, torch.cat(latents), metrics)
