from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from src.core.types import ImageSize, Normalization
from src.networks.conv_vae import ConvDecoder, ConvEncoder
from src.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from src.networks.layers import SelfModulation, channels_by_resolution, normalization_layer
from src.networks.resnet_vae import ResidualBlock, ResNetDecoder, ResNetEncoder

CONF = Path(__file__).parents[2] / "conf"
SIZES = get_args(ImageSize)
NORMALIZATIONS = get_args(Normalization)


def images(count: int, size: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def conv_vae(size: ImageSize) -> tuple[nn.Module, nn.Module]:
    return ConvEncoder(size, width=4, max_width=8), ConvDecoder(size, 5, width=4, max_width=8)


def resnet_vae(size: ImageSize) -> tuple[nn.Module, nn.Module]:
    return ResNetEncoder(size, width=4, max_width=8, blocks=2), ResNetDecoder(size, 5, width=4, max_width=8, blocks=2)


def channels_of(network: nn.Module) -> list[int]:
    """Return the output channels of each convolution."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return [layer.out_channels for layer in network.modules() if isinstance(layer, kinds)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("build", [conv_vae, resnet_vae])
def test_encoder_and_decoder_return_documented_shapes(
    build: Callable[[ImageSize], tuple[nn.Module, nn.Module]], size: ImageSize
) -> None:
    encoder, decoder = build(size)
    features, logits = encoder(images(2, size)), decoder(torch.randn(2, 5))
    assert features.shape == (2, encoder.num_features)
    assert logits.shape == (2, 3, size, size)
    assert features.isfinite().all()
    assert logits.isfinite().all()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("size", SIZES)
def test_generator_returns_images_and_discriminator_a_logit_each(size: ImageSize, normalization: Normalization) -> None:
    generator = DCGANGenerator(size, 5, width=4, max_width=8, normalization=normalization)
    images = generator(100 * torch.randn(2, 5))
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    torch.manual_seed(0)
    unbounded = DCGANGenerator(size, 5, width=4, max_width=8, normalization=normalization, unbounded=True)
    unbounded.load_state_dict(generator.state_dict())
    latents = torch.randn(2, 5)
    torch.testing.assert_close(unbounded(latents).tanh(), generator(latents))
    logits = DCGANDiscriminator(size, width=4, max_width=8, normalization=normalization)(images)
    assert logits.shape == (2,)
    assert logits.isfinite().all()


def test_width_doubles_up_to_max_width() -> None:
    assert channels_by_resolution(256, width=8, max_width=40) == [8, 16, 32, 40, 40, 40]
    assert channels_of(ConvEncoder(64, width=8, max_width=20)) == [8, 16, 20, 20]
    assert channels_of(DCGANDiscriminator(64, width=8, max_width=20, normalization="none")) == [8, 16, 20, 20]
    assert channels_of(DCGANGenerator(64, 5, width=8, max_width=20, normalization="none")) == [20, 16, 8, 3]
    fine = DCGANGenerator(64, 5, width=8, max_width=20, normalization="none", full_width=6)
    assert channels_of(fine) == [20, 16, 8, 6, 3]
    assert channels_of(ConvDecoder(64, 5, width=8, max_width=20)) == [20, 16, 8, 8, 3]


@pytest.mark.parametrize(("smooth_layers", "is_even"), [(0, False), (1, False), (4, True), (9, True)])
def test_smooth_layers_draw_no_checkerboard_on_an_even_ground(smooth_layers: int, is_even: bool) -> None:
    torch.manual_seed(0)  # some draws of so few channels are dead behind a ReLU
    generator = DCGANGenerator(64, 5, width=4, max_width=8, normalization="none", smooth_layers=smooth_layers)
    assert generator(torch.randn(2, 5)).shape == (2, 3, 64, 64)
    ground = nn.Sequential(*list(generator)[2:])(torch.ones(1, 8, 4, 4))[..., 28:36, 28:36].detach()
    assert (ground.std(dim=(-2, -1)) < 1e-6).all() == is_even


def test_self_modulation_scales_and_shifts_each_channel_of_each_image() -> None:
    layer = SelfModulation("group", 4, latent_dim=3)
    features, latents = torch.randn(2, 4, 5, 5), torch.randn(2, 3)
    normalized, numbers = layer.normalization(features), layer.modulation(latents)
    for image in range(2):
        for channel in range(4):
            scale, shift = numbers[image, channel], numbers[image, 4 + channel]
            expected = (1 + scale) * normalized[image, channel] + shift
            torch.testing.assert_close(layer(features, latents)[image, channel], expected)


def test_every_layer_of_a_self_modulated_generator_sees_the_latents() -> None:
    generator = DCGANGenerator(32, 5, 4, 8, normalization="group", full_width=3, self_modulation=True)
    modulated = [layer for layer in generator if isinstance(layer, SelfModulation)]
    assert len(modulated) == 4
    generator(torch.randn(2, 5)).square().sum().backward()
    gradients = [layer.modulation.weight.grad for layer in modulated]
    assert all(gradient is not None and gradient.abs().amax() > 0 for gradient in gradients)


@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (16, 1), (32, 2), (256, 16)])
def test_groups_have_sixteen_channels(channels: int, groups: int) -> None:
    layer = normalization_layer("group", channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups


@pytest.mark.parametrize("channels", [4, 20, 24, 40, 100])
def test_any_number_of_channels_can_be_grouped(channels: int) -> None:
    assert normalization_layer("group", channels)(torch.randn(2, channels, 4, 4)).isfinite().all()


@pytest.mark.parametrize(("normalization", "independent"), [("none", True), ("group", True), ("batch", False)])
def test_only_batch_normalization_makes_a_logit_depend_on_the_rest_of_the_batch(
    normalization: Normalization, independent: bool
) -> None:
    torch.manual_seed(0)
    discriminator = DCGANDiscriminator(32, width=8, max_width=16, normalization=normalization)
    batch = images(4, 32)
    logit, others_changed = discriminator(batch)[0], discriminator(torch.cat([batch[:1], 0.1 * batch[1:]]))[0]
    assert torch.allclose(logit, others_changed, rtol=1e-4, atol=1e-7) == independent


def test_default_networks_have_no_batch_normalization() -> None:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config: Any = hydra.compose("train", ["model=gan", "data.image_size=32", "run_dir=."]).model
    OmegaConf.resolve(config)
    for network in (hydra.utils.instantiate(config.generator), hydra.utils.instantiate(config.discriminator)):
        assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())


def test_residual_block_starts_as_the_identity_and_gets_gradients() -> None:
    block, features = ResidualBlock(8), torch.randn(2, 8, 4, 4)
    assert torch.equal(block(features), features)
    block(features).square().sum().backward()
    assert block.layers[-1].weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
