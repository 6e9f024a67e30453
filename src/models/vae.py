"""The variational autoencoder (Kingma & Welling, 2014), with a weighted KL term (Higgins et al., 2017)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from src.models.generative_model import GenerativeModel
from src.objectives.kl import kl_to_standard_normal, nats_to_bits_per_dimension
from src.objectives.likelihood import Likelihood
from src.schema import NonNegativeFloat, NonNegativeInt, PositiveInt


class VAE(GenerativeModel):
    """Diagonal Gaussian posterior, N(0, I) prior; minimizes reconstruction + beta x KL.

    beta_warmup_images: beta rises linearly from 0 over so many images (Bowman et al., 2016).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        latent_dim: PositiveInt,
        beta: NonNegativeFloat = 1.0,
        beta_warmup_images: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.to_posterior = nn.Linear(encoder.num_features, 2 * latent_dim)  # type: ignore[arg-type]
        self.latent_dim = latent_dim
        self.beta, self.beta_warmup_images = beta, beta_warmup_images
        self.optimizer = optimizer

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) -> the posterior's mean and log-variance, (N, latent_dim) each."""
        mean, log_variance = self.to_posterior(self.encoder(images)).to(images.dtype).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        return self.likelihood.mean(self.decoder(latents))

    def reconstruct(self, images: Tensor) -> Tensor:
        """The decoded posterior mean."""
        return self.decode(self.encode(images)[0])

    def current_beta(self) -> float:
        if self.images_seen >= self.beta_warmup_images:
            return self.beta
        return self.beta * self.images_seen / self.beta_warmup_images

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """The loss and the parts of the ELBO, one value per image: (N,) each."""
        mean, log_variance = self.encode(images)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        reconstruction = -self.likelihood.log_prob(images, self.decoder(latents).to(images.dtype))
        kl = kl_to_standard_normal(mean, log_variance)
        negative_elbo = reconstruction + kl
        return {
            "loss": reconstruction + self.current_beta() * kl,
            "elbo_nats": -negative_elbo,
            "reconstruction_nats": reconstruction,
            "kl_nats": kl,
            "elbo_bits_per_dim": nats_to_bits_per_dimension(
                negative_elbo, images[0].numel(), self.likelihood.log_levels_per_unit
            ),
        }

    def evaluation_losses(self, images: Tensor) -> dict[str, Tensor]:
        return self.losses(images)

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        losses = {name: values.mean() for name, values in self.losses(images).items()}
        self.count_images(images)
        return losses

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())
