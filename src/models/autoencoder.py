"""The plain autoencoder: what a VAE is measured against, and why one needs it."""

from torch import Tensor, nn

from src.models.encoding_model import EncodingModel
from src.models.generative_model import OptimizerFactory
from src.objectives.likelihood import Likelihood
from src.schedules import Schedule
from src.schema import NonNegativeFloat, PositiveInt


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

    def codes(self, images: Tensor) -> Tensor:
        return self.to_latent(self.encoder(images)).to(images.dtype)

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        reconstruction = self.reconstruction_nats(images, self.codes(images))
        return {"loss": reconstruction, "reconstruction_nats": reconstruction}
