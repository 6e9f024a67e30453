"""The variational autoencoder (Kingma & Welling, 2014), with a weighted KL term (Higgins et al., 2017)."""

import torch
from torch import Tensor, nn

from src.models.encoding_model import EncodingModel
from src.models.generative_model import OptimizerFactory
from src.objectives.kl import kl_to_standard_normal, nats_to_bits_per_dimension
from src.objectives.likelihood import Likelihood
from src.schema import NonNegativeFloat, NonNegativeInt, PositiveInt


class VAE(EncodingModel):
    """Diagonal Gaussian posterior, N(0, I) prior; minimizes reconstruction + beta x KL.

    beta_warmup_images: beta rises linearly from 0 over so many images (Bowman et al., 2016).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        optimizer: OptimizerFactory,
        latent_dim: PositiveInt,
        beta: NonNegativeFloat = 1.0,
        beta_warmup_images: NonNegativeInt = 0,
    ) -> None:
        super().__init__(encoder, decoder, likelihood, optimizer, latent_dim)
        self.to_posterior = nn.Linear(encoder.num_features, 2 * latent_dim)  # type: ignore[arg-type]
        self.beta, self.beta_warmup_images = beta, beta_warmup_images

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) -> the posterior's mean and log-variance, (N, latent_dim) each."""
        mean, log_variance = self.to_posterior(self.encoder(images)).to(images.dtype).chunk(2, dim=1)
        return mean, log_variance

    def codes(self, images: Tensor) -> Tensor:
        """The posterior's means."""
        return self.encode(images)[0]

    def reconstruct(self, images: Tensor) -> Tensor:
        """The decoded posterior mean."""
        return self.decode(self.codes(images))

    def current_beta(self) -> float:
        if self.images_seen >= self.beta_warmup_images:
            return self.beta
        return self.beta * self.images_seen / self.beta_warmup_images

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """The loss and the parts of the ELBO, one value per image: (N,) each."""
        mean, log_variance = self.encode(images)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        reconstruction = self.reconstruction_nats(images, latents)
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
