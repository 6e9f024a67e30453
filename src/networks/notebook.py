"""The networks of a course notebook of 2021: 3x3 convolutions of stride 2, all of one width, with ReLU."""

from torch import nn

from src.core.types import ImageSize, PositiveInt
from src.networks.layers import channels_by_resolution


class NotebookGenerator(nn.Sequential):
    """A generator: latents (N, latent_dim) -> images (N, 3, H, W) in [-1, 1]."""

    def __init__(self, image_size: ImageSize, latent_dim: PositiveInt, width: PositiveInt) -> None:
        layers: list[nn.Module] = [nn.Linear(latent_dim, width * 4 * 4), nn.Unflatten(1, (width, 4, 4)), nn.ReLU()]
        _, *narrowing = channels_by_resolution(image_size, width, width)
        for channels in narrowing:
            layers += [nn.ConvTranspose2d(channels, channels, 3, 2, 1, output_padding=1), nn.ReLU()]
        super().__init__(*layers, nn.ConvTranspose2d(width, 3, 3, 2, 1, output_padding=1), nn.Tanh())


class NotebookEncoder(nn.Sequential):
    """An encoder: images (N, 3, H, W) in [-1, 1] -> features (N, num_features), to which the model adds its heads."""

    def __init__(self, image_size: ImageSize, width: PositiveInt) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for wider in channels_by_resolution(image_size, width, width):
            layers += [nn.Conv2d(channels, wider, 3, 2, 1), nn.ReLU()]
            channels = wider
        super().__init__(*layers, nn.Flatten())
        self.num_features = width * 4 * 4


class NotebookDiscriminator(nn.Sequential):
    """A discriminator, the encoder and a linear layer: images (N, 3, H, W) in [-1, 1] -> logits (N,)."""

    def __init__(self, image_size: ImageSize, width: PositiveInt) -> None:
        super().__init__(*NotebookEncoder(image_size, width), nn.Linear(width * 4 * 4, 1), nn.Flatten(0))


class NotebookDecoder(nn.Sequential):
    """A decoder, the generator without its tanh: latents (N, latent_dim) -> logits (N, 3, H, W)."""

    def __init__(self, image_size: ImageSize, latent_dim: PositiveInt, width: PositiveInt) -> None:
        *layers, _ = NotebookGenerator(image_size, latent_dim, width)
        super().__init__(*layers)
