"""A residual, group-normalized encoder and decoder for autoencoders and VAEs (He et al., 2016; Wu & He, 2018)."""

from torch import Tensor, nn

from src.core.types import ImageSize, NonNegativeInt, PositiveInt
from src.networks.layers import channels_by_resolution, normalization_layer


class ResidualBlock(nn.Module):
    """A block x + f(x): (N, C, H, W) -> (N, C, H, W); f has two 3x3 convolutions, each after normalization and SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            normalization_layer("group", channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, 1, 1),
            normalization_layer("group", channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, 1, 1),
        )
        # Zero gain: each block starts as the identity.
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class ResNetEncoder(nn.Sequential):
    """An encoder: images (N, 3, H, W) in [-1, 1] -> features (N, num_features), to which the model adds its heads."""

    def __init__(
        self, image_size: ImageSize, width: PositiveInt, max_width: PositiveInt, blocks: NonNegativeInt
    ) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for wider in channels_by_resolution(image_size, width, max_width):
            layers += [nn.Conv2d(channels, wider, 4, 2, 1), *(ResidualBlock(wider) for _ in range(blocks))]
            channels = wider
        super().__init__(*layers, normalization_layer("group", channels), nn.SiLU(), nn.Flatten())
        self.num_features = channels * 4 * 4


class ResNetDecoder(nn.Sequential):
    """A decoder: latents (N, latent_dim) -> logits (N, 3, H, W), the parameters of the likelihood.

    It doubles a resolution by repeating pixels before a convolution, which avoids checkerboard artifacts (Odena et al.,
    2016).
    """

    def __init__(
        self,
        image_size: ImageSize,
        latent_dim: PositiveInt,
        width: PositiveInt,
        max_width: PositiveInt,
        blocks: NonNegativeInt,
    ) -> None:
        channels, *narrowing = reversed(channels_by_resolution(image_size, width, max_width))
        layers: list[nn.Module] = [nn.Linear(latent_dim, channels * 4 * 4), nn.Unflatten(1, (channels, 4, 4))]
        for narrower in [*narrowing, width]:
            layers += [
                *(ResidualBlock(channels) for _ in range(blocks)),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(channels, narrower, 3, 1, 1),
            ]
            channels = narrower
        super().__init__(*layers, normalization_layer("group", channels), nn.SiLU(), nn.Conv2d(channels, 3, 3, 1, 1))
