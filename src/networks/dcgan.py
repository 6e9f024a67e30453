"""The DCGAN pair (Radford, Metz & Chintala, 2016): transposed convolutions up, strided convolutions down."""

from torch import Tensor, nn

from src.core.types import ImageSize, NonNegativeInt, Normalization, PositiveInt
from src.networks.layers import Resample, SelfModulation, channels_by_resolution, normalization_layer


def initialize(module: nn.Module) -> None:
    """Initialize the weights of a layer from N(0, 0.02^2), as in the paper."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)


class DCGANGenerator(nn.Sequential):
    """A generator: latents (N, latent_dim) -> images (N, 3, H, W) in [-1, 1], or logits (N, 3, H, W).

    It has `width` channels at half the image's size, doubling up to `max_width` at 4 pixels.
    full_width: channels of one more layer, at the full size; 0: the last layer that enlarges draws the colors, which
    leaves out the finest details or, without smooth_layers, draws a checkerboard.
    smooth_layers: how many of the last layers enlarge by bilinear interpolation and a 3x3 convolution. Transposed
    convolutions, the others, leave a fine checkerboard (Odena, Dumoulin & Olah, 2016).
    self_modulation: the latents also scale and shift the channels after each normalization (Chen et al., 2019).
    unbounded: leave out the tanh and return logits, for the likelihood of a VAE whose decoder this is.
    """

    def __init__(
        self,
        image_size: ImageSize,
        latent_dim: PositiveInt,
        width: PositiveInt,
        max_width: PositiveInt,
        normalization: Normalization,
        full_width: NonNegativeInt = 0,
        smooth_layers: NonNegativeInt = 0,
        self_modulation: bool = False,
        unbounded: bool = False,
    ) -> None:
        channels, *narrowing = reversed(channels_by_resolution(image_size, width, max_width))
        layers: list[nn.Module] = [nn.Linear(latent_dim, channels * 4 * 4), nn.Unflatten(1, (channels, 4, 4))]

        def activation(channels: int) -> list[nn.Module]:
            if self_modulation:
                return [SelfModulation(normalization, channels, latent_dim), nn.ReLU()]
            return [normalization_layer(normalization, channels), nn.ReLU()]

        for left, narrower in zip(range(len(narrowing), -1, -1), [*narrowing, full_width or 3], strict=True):
            layers += activation(channels)
            if left < smooth_layers:
                layers += [Resample(channels, up=True), nn.Conv2d(channels, narrower, 3, padding=1)]
            else:
                layers += [nn.ConvTranspose2d(channels, narrower, 4, 2, 1)]
            channels = narrower
        if full_width:
            layers += [*activation(channels), nn.Conv2d(channels, 3, 3, padding=1)]
        super().__init__(*layers, *([] if unbounded else [nn.Tanh()]))
        self.apply(initialize)

    def forward(self, latents: Tensor) -> Tensor:
        features = latents
        for layer in self:
            features = layer(features, latents) if isinstance(layer, SelfModulation) else layer(features)
        return features


class DCGANDiscriminator(nn.Sequential):
    """A discriminator: images (N, 3, H, W) in [-1, 1] -> logits (N,); the generator mirrored."""

    def __init__(
        self, image_size: ImageSize, width: PositiveInt, max_width: PositiveInt, normalization: Normalization
    ) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for wider in channels_by_resolution(image_size, width, max_width):
            # The paper leaves the first layer without normalization.
            layers += [
                nn.Conv2d(channels, wider, 4, 2, 1),
                normalization_layer(normalization if layers else "none", wider),
                nn.LeakyReLU(0.2),
            ]
            channels = wider
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels * 4 * 4, 1), nn.Flatten(0))
        self.apply(initialize)
