"""The plain autoencoder: what a VAE is measured against, and why one needs it."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from src.models.generative_model import GenerativeModel
from src.objectives.likelihood import Likelihood
from src.schema import PositiveInt


class Autoencoder(GenerativeModel):
    """Reconstruction only. Nothing shapes the codes, so decoding noise gives no cats: that is the lesson."""

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        latent_dim: PositiveInt,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.to_latent = nn.Linear(encoder.num_features, latent_dim)  # type: ignore[arg-type]
        self.latent_dim = latent_dim
        self.optimizer = optimizer

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> codes (N, latent_dim)."""
        return self.to_latent(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        return self.likelihood.mean(self.decoder(latents))

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """Loss and reconstruction error, in nats per image: (N,) each."""
        reconstruction = -self.likelihood.log_prob(images, self.decoder(self.encode(images)).to(images.dtype))
        return {"loss": reconstruction, "reconstruction_nats": reconstruction}

    def evaluation_losses(self, images: Tensor) -> dict[str, Tensor]:
        return self.losses(images)

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        losses = {name: values.mean() for name, values in self.losses(images).items()}
        self.count_images(images)
        return losses

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())
