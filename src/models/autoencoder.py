"""The plain autoencoder: what a VAE is measured against, and why one needs it."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from src.core.schedules import Schedule, as_schedule
from src.core.types import NonNegativeFloat, PositiveInt
from src.models.base import GenerativeModel, OptimizerFactory
from src.models.priors import GaussianMixture, Prior
from src.objectives.likelihood import Likelihood


class EncodingModel(GenerativeModel):
    """An encoder, a decoder and the likelihood of images under what is decoded.

    learning_rate_factor: multiplies the learning rate of the optimizer.
    mixture_components: Gaussians of the mixture that is fitted on the codes of training images at evaluations.
    channels_last: the memory layout of images and weights; faster on a CPU, and on a GPU in bf16.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        optimizer: OptimizerFactory,
        latent_dim: int,
        learning_rate_factor: float | Schedule,
        mixture_components: int,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.encoder = encoder.to(memory_format=self.memory_format)
        self.decoder = decoder.to(memory_format=self.memory_format)
        self.likelihood, self.optimizer = likelihood, optimizer
        self.latent_dim = latent_dim
        self.scheduled["learning_rate_factor"] = as_schedule(learning_rate_factor)
        self.mixture = GaussianMixture(mixture_components, latent_dim)

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the one code of each image that reconstructs it, (N, latent_dim)."""

    def sample_posterior(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(N, 3, H, W) -> a code of each image as the decoder meets it in training, (N, latent_dim)."""
        return self.encode(images)

    def priors(self) -> list[Prior]:
        return ["normal", "mixture"] if self.mixture.is_fitted else ["normal"]

    def sample_prior(self, num_images: int, generator: torch.Generator | None, prior: Prior = "normal") -> Tensor:
        if prior == "mixture" and self.mixture.is_fitted:
            return self.mixture.draw(num_images, generator)
        return super().sample_prior(num_images, generator, prior)

    @abstractmethod
    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """`loss`, which is minimized, and its parts, in nats: one value per image, (N,) each."""

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))

    def outputs(self, latents: Tensor) -> Tensor:
        """What the decoder says, unbounded: (N, latent_dim) -> (N, 3, H, W)."""
        return self.decoder(latents)

    def decode(self, latents: Tensor) -> Tensor:
        return self.likelihood.mean(self.outputs(latents))

    def reconstruction_nats(self, images: Tensor, latents: Tensor) -> Tensor:
        """-log p(image | latent): (N, 3, H, W), (N, latent_dim) -> (N,), in the images' precision."""
        return -self.likelihood.log_prob(images, self.outputs(latents).to(images.dtype))

    def evaluation_losses(self, images: Tensor) -> dict[str, Tensor]:
        return self.losses(images)

    def training_scalars(self, losses: dict[str, Tensor]) -> dict[str, Tensor | float]:
        """What else a training step logs, once its losses are known; nothing by default."""
        return {}

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor | float]:
        scheduled = self.apply_schedules()
        losses = self.losses(images)
        scalars = self.training_scalars(losses)
        self.count_images(images)
        return {name: values.mean() for name, values in losses.items()} | scalars | scheduled

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())


class Autoencoder(EncodingModel):
    """Reconstruction only. Nothing shapes the codes, so decoding noise gives no cats: that is the lesson."""

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        optimizer: OptimizerFactory,
        latent_dim: PositiveInt,
        learning_rate_factor: NonNegativeFloat | Schedule = 1.0,
        mixture_components: PositiveInt = 10,
        channels_last: bool = False,
    ) -> None:
        super().__init__(
            encoder, decoder, likelihood, optimizer, latent_dim, learning_rate_factor, mixture_components, channels_last
        )
        self.to_latent = nn.Linear(encoder.num_features, latent_dim)  # type: ignore[arg-type]

    def encode(self, images: Tensor) -> Tensor:
        return self.to_latent(self.encoder(images)).to(images.dtype)

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        reconstruction = self.reconstruction_nats(images, self.encode(images))
        return {"loss": reconstruction, "reconstruction_nats": reconstruction}
