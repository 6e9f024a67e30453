"""The variational autoencoder (Kingma & Welling, 2014), with a weighted KL term (Higgins et al., 2017)."""

import math

import torch
from torch import Tensor, nn

from src.core.schedules import Schedule, as_schedule
from src.core.types import NonNegativeFloat, PositiveInt
from src.models.autoencoder import EncodingModel
from src.models.base import OptimizerFactory
from src.objectives.kl import TargetKL, free_bits_kl, kl_per_dimension, nats_to_bits_per_dimension
from src.objectives.likelihood import Likelihood


class VAE(EncodingModel):
    """Diagonal Gaussian posterior, N(0, I) prior; minimizes reconstruction + beta x KL.

    beta: a number, a schedule in images seen, or a TargetKL.
    free_bits: what each latent dimension may cost for nothing, on average over a batch.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        optimizer: OptimizerFactory,
        latent_dim: PositiveInt,
        beta: NonNegativeFloat | Schedule = 1.0,
        free_bits: NonNegativeFloat = 0.0,
        learning_rate_factor: NonNegativeFloat | Schedule = 1.0,
        mixture_components: PositiveInt = 10,
        channels_last: bool = False,
    ) -> None:
        super().__init__(
            encoder, decoder, likelihood, optimizer, latent_dim, learning_rate_factor, mixture_components, channels_last
        )
        self.to_posterior = nn.Linear(encoder.num_features, 2 * latent_dim)  # type: ignore[arg-type]
        self.beta, self.free_bits = as_schedule(beta), free_bits

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) -> the posterior's mean and log-variance, (N, latent_dim) each."""
        mean, log_variance = self.to_posterior(self.encoder(images)).to(images.dtype).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, images: Tensor) -> Tensor:
        """The posterior means."""
        return self.posterior(images)[0]

    def sample_posterior(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of each posterior."""
        mean, log_variance = self.posterior(images)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        return mean + (0.5 * log_variance).exp() * noise

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """The loss and the parts of the ELBO, one value per image: (N,) each. Only training has free nats."""
        return self.losses_and_outputs(images)[0]

    def losses_and_outputs(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The losses, and what the decoder made of a draw of each posterior: (N, 3, H, W)."""
        mean, log_variance = self.posterior(images)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        outputs = self.outputs(latents).to(images.dtype)
        reconstruction = -self.likelihood.log_prob(images, outputs)
        kl_by_dimension = kl_per_dimension(mean, log_variance)
        kl = kl_by_dimension.sum(dim=1)
        paid = free_bits_kl(kl_by_dimension, self.free_bits) if self.training and self.free_bits else kl
        negative_elbo = reconstruction + kl
        losses = {
            "loss": reconstruction + self.beta(self.images_seen) * paid,
            "elbo_nats": -negative_elbo,
            "reconstruction_nats": reconstruction,
            "kl_nats": kl,
            "elbo_bits_per_dim": nats_to_bits_per_dimension(
                negative_elbo, images[0].numel(), self.likelihood.log_levels_per_unit
            ),
        }
        return losses, outputs

    def importance_weighted_bound(self, images: Tensor, num_samples: int) -> Tensor:
        """A lower bound of log p(image) that tightens with the samples of each posterior: (N, 3, H, W) -> nats (N,).

        log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x); with one sample, the ELBO (Burda et al., 2016, equation 8).
        """
        mean, log_variance = self.posterior(images)
        log_weights = []
        for _ in range(num_samples):
            noise = torch.randn_like(mean)
            latents = mean + (0.5 * log_variance).exp() * noise
            # log p(z) - log q(z | x); the constants of the two Gaussians cancel.
            log_ratio = 0.5 * (noise.square() + log_variance - latents.square()).sum(dim=1)
            log_weights.append(log_ratio - self.reconstruction_nats(images, latents))
        return torch.stack(log_weights).logsumexp(dim=0) - math.log(num_samples)

    def training_scalars(self, losses: dict[str, Tensor]) -> dict[str, Tensor | float]:
        beta = torch.as_tensor(self.beta(self.images_seen), device=self.device)
        if isinstance(self.beta, TargetKL):
            self.beta.observe(losses["kl_nats"])
        return {"beta": beta}
