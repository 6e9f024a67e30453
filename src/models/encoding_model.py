"""What the models that encode share: pictures to codes and back, one loss, one optimizer."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from src.models.generative_model import GenerativeModel, OptimizerFactory
from src.objectives.likelihood import Likelihood


class EncodingModel(GenerativeModel):
    """An encoder, a decoder and the likelihood of pictures under what is decoded."""

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        optimizer: OptimizerFactory,
        latent_dim: int,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.optimizer = optimizer
        self.latent_dim = latent_dim

    @abstractmethod
    def codes(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the one code of each picture that reconstructs it, (N, latent_dim)."""

    @abstractmethod
    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """`loss`, which is minimized, and its parts, in nats: one value per image, (N,) each."""

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.decode(self.codes(images))

    def decode(self, latents: Tensor) -> Tensor:
        return self.likelihood.mean(self.decoder(latents))

    def reconstruction_nats(self, images: Tensor, latents: Tensor) -> Tensor:
        """-log p(image | latent): (N, 3, H, W), (N, latent_dim) -> (N,), in the pictures' precision."""
        return -self.likelihood.log_prob(images, self.decoder(latents).to(images.dtype))

    def evaluation_losses(self, images: Tensor) -> dict[str, Tensor]:
        return self.losses(images)

    def training_scalars(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """What else a training step logs, once its losses are known; nothing by default."""
        return {}

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        losses = self.losses(images)
        scalars = self.training_scalars(losses)
        self.count_images(images)
        return {name: values.mean() for name, values in losses.items()} | scalars

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())
