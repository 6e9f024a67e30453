"""What the page shows and says of each model, measured on equally many images of every kind."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.core.images import from_uint8
from src.data.dataset import ImageDataset
from src.evaluation.latent_space import decode, encode
from src.metrics.features import FeatureNetwork
from src.metrics.frechet import FeatureMoments, frechet_distance
from src.models.autoencoder import EncodingModel
from src.models.base import GenerativeModel

READ_AT_ONCE = 64


class Yardstick:
    """How far images are from real ones, by the features of a network that was trained on neither.

    training: what the nearest is looked for in. Distances are Euclidean.
    """

    def __init__(self, network: FeatureNetwork, training: ImageDataset) -> None:
        self.network = network
        self.training = torch.cat([network(batch) for batch in training.batches(READ_AT_ONCE)])
        self.moments = moments(self.training)

    def judge(self, images: Tensor) -> "Judgement":
        """uint8 (N, 3, S, S)."""
        features = torch.cat([self.network(batch) for batch in images.split(READ_AT_ONCE)])
        nearest = torch.cdist(features, self.training).amin(dim=1)
        return Judgement(nearest, float(frechet_distance(*self.moments, *moments(features))))


def moments(features: Tensor) -> tuple[Tensor, ...]:
    metric = FeatureMoments(features.shape[1])
    metric.update(features)
    return metric.compute()


@dataclass(frozen=True)
class Judgement:
    """distances: (N,), to the nearest training image; frechet: between these images and the training ones."""

    distances: Tensor
    frechet: float

    @property
    def median(self) -> float:
        return self.distances.median().item()

    def share_beyond(self, others: "Judgement", quantile: float = 0.95) -> float:
        """The share that is farther from the training images than this quantile of the others."""
        return (self.distances > others.distances.quantile(quantile)).float().mean().item()


@dataclass(frozen=True)
class Encoded:
    """What there is of a model that encodes.

    codes: (N, D), of training images, as the decoder met them in training (of a VAE: the aggregate posterior).
    reconstructions: of the held-out images, uint8; psnr: theirs, in decibels; kl_nats: of the held-out images.
    mixture_samples: uint8, from the mixture fitted on training codes.
    """

    codes: Tensor
    reconstructions: Tensor
    judgement: Judgement
    psnr: float
    kl_nats: float | None
    mixture_samples: Tensor
    mixture_judgement: Judgement


@dataclass(frozen=True)
class Measured:
    """samples: uint8, from N(0, I)."""

    samples: Tensor
    judgement: Judgement
    encoded: Encoded | None


def measure(model: GenerativeModel, training: Tensor, held_out: Tensor, yardstick: Yardstick, seed: int) -> Measured:
    """training, held_out: uint8 images to encode; as many samples are drawn as images are held out.

    The mixture of a model that encodes must be fitted.
    """
    samples = torch.cat(list(model.sample_uint8(len(held_out), seed, READ_AT_ONCE)))
    encoded = measure_encoder(model, training, held_out, yardstick, seed) if isinstance(model, EncodingModel) else None
    return Measured(samples, yardstick.judge(samples), encoded)


@torch.no_grad()
def measure_encoder(
    model: EncodingModel, training: Tensor, held_out: Tensor, yardstick: Yardstick, seed: int
) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    codes = [model.sample_posterior(from_uint8(batch), generator) for batch in training.split(READ_AT_ONCE)]
    reconstructions = decode(model, encode(model, held_out))
    error = (reconstructions.float() - held_out.float()).square().mean(dim=(1, 2, 3))
    psnr = (10 * (255**2 / error.clamp(min=1e-9)).log10()).mean().item()
    losses = [model.losses(from_uint8(batch)).get("kl_nats") for batch in held_out.split(READ_AT_ONCE)]
    kl_nats = [values for values in losses if values is not None]
    mixture_samples = torch.cat(list(model.sample_uint8(len(held_out), seed, READ_AT_ONCE, "mixture")))
    return Encoded(
        torch.cat(codes),
        reconstructions,
        yardstick.judge(reconstructions),
        psnr,
        torch.cat(kl_nats).mean().item() if kl_nats else None,
        mixture_samples,
        yardstick.judge(mixture_samples),
    )
