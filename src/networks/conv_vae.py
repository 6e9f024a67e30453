"""A convolutional encoder and decoder for autoencoders and VAEs: one strided convolution per resolution."""

from torch import nn

from src.core.types import ImageSize, PositiveInt
from src.networks.layers import channels_by_resolution, normalization_layer


class ConvEncoder(nn.Sequential):
    """An encoder: images (N, 3, H, W) in [-1, 1] -> features (N, num_features), to which the model adds its heads."""

    def __init__(self, image_size: ImageSize, width: PositiveInt, max_width: PositiveInt) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for wider in channels_by_resolution(image_size, width, max_width):
            layers += [nn.Conv2d(channels, wider, 4, 2, 1), normalization_layer("group", wider), nn.SiLU()]
            channels = wider
        super().__init__(*layers, nn.Flatten())
        self.num_features = channels * 4 * 4


class ConvDecoder(nn.Sequential):
    """A decoder: latents (N, latent_dim) -> logits (N, 3, H, W), the parameters of the likelihood."""

    def __init__(
        self, image_size: ImageSize, latent_dim: PositiveInt, width: PositiveInt, max_width: PositiveInt
    ) -> None:
        channels, *narrowing = reversed(channels_by_resolution(image_size, width, max_width))
        layers: list[nn.Module] = [nn.Linear(latent_dim, channels * 4 * 4), nn.Unflatten(1, (channels, 4, 4))]
        for narrower in [*narrowing, width]:
            layers += [
                normalization_layer("group", channels),
                nn.SiLU(),
                nn.ConvTranspose2d(channels, narrower, 4, 2, 1),
            ]
            channels = narrower
        super().__init__(*layers, nn.SiLU(), nn.Conv2d(channels, 3, 3, 1, 1))
