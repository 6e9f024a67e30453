"""Models with an encoder, and the plain autoencoder, the baseline of the VAE."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from src.core.types import PositiveInt
from src.models.base import GenerativeModel, OptimizerFactory
from src.models.priors import GaussianMixture
from src.objectives.likelihood import Likelihood


class EncodingModel(GenerativeModel):
    """The base class of models with an encoder, a decoder and a likelihood of images given the decoder's logits.

    mixture_components: number of Gaussians in the mixture that evaluations fit on latents of training images.
    options: learning_rate_factor and channels_last of GenerativeModel.
    """

    encoder: nn.Module
    mixture: GaussianMixture
    inference_parts: ClassVar = {name: name for name in ("decoder", "likelihood", "encoder", "head", "mixture")}
    # Numbers that the head computes from the encoder's features for each latent dimension.
    head_outputs_per_latent = 1

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        optimizer: OptimizerFactory,
        latent_dim: PositiveInt,
        mixture_components: PositiveInt = 10,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.encoder = encoder.to(memory_format=self.memory_format)
        self.decoder = decoder.to(memory_format=self.memory_format)
        self.likelihood, self.optimizer = likelihood, optimizer
        self.latent_dim = latent_dim
        self.mixture = GaussianMixture(mixture_components, latent_dim)
        self.head = nn.Linear(encoder.num_features, self.head_outputs_per_latent * latent_dim)  # type: ignore[arg-type]

    def sample_posterior(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return latents as the decoder gets them in training: (N, 3, H, W) -> (N, latent_dim)."""
        return self.encode(images)

    @abstractmethod
    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """Return `loss`, which is minimized, and its parts, in nats, one value per image: (N,) each."""

    def decode_logits(self, latents: Tensor) -> Tensor:
        """Return the decoder's logits, the parameters of the likelihood: (N, latent_dim) -> (N, 3, H, W)."""
        return self.decoder(latents)

    def decode(self, latents: Tensor) -> Tensor:
        return self.likelihood.mean(self.decode_logits(latents))

    def reconstruction_nats(self, images: Tensor, latents: Tensor) -> Tensor:
        """Return -log p(image | latents) in the images' precision: (N, 3, H, W), (N, latent_dim) -> (N,)."""
        return -self.likelihood.log_prob(images, self.decode_logits(latents).to(images.dtype))

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor | float]:
        scheduled = self.apply_schedules()
        losses = self.losses(images)
        self.count_images(images)
        return {name: values.mean() for name, values in losses.items()} | scheduled

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())


class Autoencoder(EncodingModel):
    """An autoencoder: it minimizes the reconstruction error alone.

    Nothing shapes the distribution of its latents, so it decodes N(0, I) to images that are not like the data.
    """

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        reconstruction = self.reconstruction_nats(images, self.encode(images))
        return {"loss": reconstruction, "reconstruction_nats": reconstruction}
