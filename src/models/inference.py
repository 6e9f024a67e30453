"""What a trained model needs to sample and to encode: networks and priors. Needs no Lightning."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from src.core.errors import UserError
from src.core.images import to_uint8
from src.core.types import NonNegativeInt, PositiveInt
from src.models.priors import GaussianMixture, Prior
from src.objectives.likelihood import Likelihood

DECODE_BATCH_SIZE = 32


class LatentModel(nn.Module, ABC):
    """The base class of models that decode images (N, 3, H, W) in [-1, 1] from latents (N, latent_dim)."""

    latent_dim: int
    # Images that all ranks together have trained on: the unit of every schedule, interval and axis.
    images_seen: int = 0
    # Of the weights.
    device: Any
    dtype: Any
    # None where a model has none: the encoder, images (N, 3, H, W) -> features (N, F), and a fitted prior.
    encoder: nn.Module | None
    mixture: GaussianMixture | None
    # Features (N, F) -> numbers of which the first latent_dim are the latents.
    head: nn.Linear

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of latents: (N, latent_dim) -> (N, 3, H, W) in [-1, 1]."""

    def encode(self, images: Tensor) -> Tensor:
        """Return the latents that reconstruct images, a VAE's posterior means: (N, 3, H, W) -> (N, latent_dim).

        Raises UserError if the model has no encoder.
        """
        if self.encoder is None:
            raise UserError("this model has no encoder; take an autoencoder, a VAE or a VAE-GAN")
        return self.head(self.encoder(images)).to(images.dtype)[:, : self.latent_dim]

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the decoded latents of images, (N, 3, H, W) in [-1, 1]; UserError if the model has no encoder."""
        return self.decode(self.encode(images))

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """Return the losses to evaluate on held-out images (N, 3, H, W), one value per image: (N,) each."""
        return {}

    def priors(self) -> list[Prior]:
        """Return the distributions that latents can be sampled from, the model's own first."""
        return ["normal", "mixture"] if self.mixture is not None and self.mixture.is_fitted else ["normal"]

    @property
    def default_prior(self) -> Prior:
        """The prior to sample from where none is named: the mixture once it is fitted, else N(0, I)."""
        return self.priors()[-1]

    @torch.no_grad()
    def sample(
        self,
        num_images: int,
        generator: torch.Generator | None = None,
        prior: Prior = "normal",
        temperature: float = 1.0,
    ) -> Tensor:
        """Return new images, (num_images, 3, H, W) in [-1, 1], decoded from latents of the prior.

        Latents are sampled image by image on the CPU, so a generator gives the same images on every device and for
        every split into calls. Raises UserError if the model does not have the prior.
        """
        return self.decode(self.sample_prior(num_images, generator, prior, temperature).to(self.device, self.dtype))

    def sample_prior(
        self, num_images: int, generator: torch.Generator | None, prior: Prior = "normal", temperature: float = 1.0
    ) -> Tensor:
        """Return latents (num_images, latent_dim) in float32 on the CPU, sampled one after the other.

        temperature: multiplies the standard deviations; below 1 the images are more typical and less varied. Raises
        UserError if the model does not have the prior.
        """
        if prior not in self.priors():
            raise UserError(f"this model has no prior={prior}; give prior={' or '.join(self.priors())}")
        if prior == "mixture":
            return self.mixture.sample(num_images, generator, temperature)  # type: ignore[union-attr]
        latents = [torch.randn(self.latent_dim, generator=generator, dtype=torch.float32) for _ in range(num_images)]
        return temperature * torch.stack(latents)

    def sample_uint8(
        self, num_images: int, seed: int, prior: Prior = "normal", temperature: float = 1.0
    ) -> Iterator[Tensor]:
        """Yield images 0 to num_images - 1 of a seed and a prior, in batches of uint8 (DECODE_BATCH_SIZE, 3, H, W).

        The bytes of an image do not depend on num_images. Sums are rounded differently in batches of different sizes,
        so the last batch is filled up before it is decoded.
        """
        generator = torch.Generator().manual_seed(seed)
        for start in range(0, num_images, DECODE_BATCH_SIZE):
            latents = self.sample_prior(min(DECODE_BATCH_SIZE, num_images - start), generator, prior, temperature)
            filled = torch.cat([latents, latents.new_zeros(DECODE_BATCH_SIZE - len(latents), self.latent_dim)])
            with torch.no_grad():
                images = to_uint8(self.decode(filled.to(self.device, self.dtype)))
            yield images[: len(latents)]


class InferenceModel(LatentModel):
    """The parts of a trained model that sample and encode; its images and latents are those of the model.

    decoder: latents (N, latent_dim) -> the likelihood's logits (N, 3, H, W), or images if there is no likelihood.
    encoder: images (N, 3, H, W) -> features; a linear head maps them to head_outputs numbers.
    mixture_components: number of Gaussians in the fitted prior; 0: it has none.
    """

    def __init__(
        self,
        decoder: nn.Module,
        latent_dim: PositiveInt,
        likelihood: Likelihood | None = None,
        encoder: nn.Module | None = None,
        head_outputs: NonNegativeInt = 0,
        mixture_components: NonNegativeInt = 0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.decoder = decoder.to(memory_format=memory_format)
        self.latent_dim, self.likelihood = latent_dim, likelihood
        self.encoder = encoder.to(memory_format=memory_format) if encoder is not None else None
        if encoder is not None:
            self.head = nn.Linear(encoder.num_features, head_outputs)  # type: ignore[arg-type]
        self.mixture = GaussianMixture(mixture_components, latent_dim) if mixture_components else None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.parameters()).dtype

    def decode(self, latents: Tensor) -> Tensor:
        decoded = self.decoder(latents)
        return decoded.clamp(-1, 1) if self.likelihood is None else self.likelihood.mean(decoded)
