"""The variational autoencoder (Kingma & Welling, 2014), with a weighted KL term (Higgins et al., 2017)."""

import math
from typing import Any

import torch
from torch import Tensor

from src.core.schedules import Schedule, as_schedule
from src.core.types import NonNegativeFloat
from src.models.autoencoder import EncodingModel
from src.objectives.kl import TargetKL, free_bits_kl, kl_per_dimension, nats_to_bits_per_dimension


class VAE(EncodingModel):
    """A VAE with a diagonal Gaussian posterior and the prior N(0, I); it minimizes reconstruction + beta x KL.

    beta: a number, a schedule in images seen, or a TargetKL.
    free_bits: nats per latent dimension, on average over a batch, that cost the same whether used or not.
    options: of EncodingModel, the networks among them.
    """

    head_outputs_per_latent = 2  # the posterior's mean and log-variance

    def __init__(
        self, beta: NonNegativeFloat | Schedule = 1.0, free_bits: NonNegativeFloat = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.beta, self.free_bits = as_schedule(beta), free_bits
        self.scheduled["beta"] = self.beta

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's mean and log-variance: (N, 3, H, W) -> (N, latent_dim) each."""
        mean, log_variance = self.head(self.encoder(images)).to(images.dtype).chunk(2, dim=1)
        return mean, log_variance

    def sample_posterior(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a sample of each image's posterior: (N, 3, H, W) -> (N, latent_dim)."""
        mean, log_variance = self.posterior(images)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        return mean + (0.5 * log_variance).exp() * noise

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """Return the loss and the parts of the ELBO, one value per image: (N,) each. Free bits apply in training."""
        return self.losses_and_logits(images)[0]

    def losses_and_logits(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses and the logits (N, 3, H, W) decoded from a sample of each image's posterior.

        In training a TargetKL adapts to them.
        """
        mean, log_variance = self.posterior(images)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        logits = self.decode_logits(latents).to(images.dtype)
        reconstruction = -self.likelihood.log_prob(images, logits)
        kl_by_dimension = kl_per_dimension(mean, log_variance)
        kl = kl_by_dimension.sum(dim=1)
        kl_term = free_bits_kl(kl_by_dimension, self.free_bits) if self.training and self.free_bits else kl
        negative_elbo = reconstruction + kl
        beta = self.beta(self.images_seen)
        if self.training and isinstance(self.beta, TargetKL):
            self.beta.observe(kl)
        losses = {
            "loss": reconstruction + beta * kl_term,
            "elbo_nats": -negative_elbo,
            "reconstruction_nats": reconstruction,
            "kl_nats": kl,
            "elbo_bits_per_dim": nats_to_bits_per_dimension(
                negative_elbo, images[0].numel(), self.likelihood.log_levels_per_unit
            ),
        }
        return losses, logits

    def importance_weighted_bound(self, images: Tensor, num_samples: int) -> Tensor:
        """Return a lower bound of log p(image) in nats, tighter with more samples: (N, 3, H, W) -> (N,).

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
