from typing import Any, Literal, get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate

from src.core.types import ImageSize
from src.networks.layers import Resample
from src.networks.notebook import NotebookDiscriminator, NotebookGenerator
from src.networks.r3gan import R3GANDiscriminator, R3GANGenerator, ResidualBlock

SMALL: dict[str, Any] = {"width": 4, "max_width": 8, "blocks": 1, "group_size": 4}


@pytest.mark.parametrize("patch_size", [1, 2, 4])
@pytest.mark.parametrize("size", get_args(ImageSize))
def test_pair_has_documented_shapes_at_every_size(size: ImageSize, patch_size: Literal[1, 2, 4]) -> None:
    images = R3GANGenerator(size, 5, **SMALL, patch_size=patch_size)(torch.randn(2, 5))
    assert images.shape == (2, 3, size, size)
    logits = R3GANDiscriminator(size, **SMALL, patch_size=patch_size)(images)
    assert logits.shape == (2,)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", get_args(ImageSize))
def test_notebook_pair_has_documented_shapes_at_every_size(size: ImageSize) -> None:
    images = NotebookGenerator(size, 5, width=4)(torch.randn(2, 5))
    assert images.shape == (2, 3, size, size)
    assert NotebookDiscriminator(size, width=4)(images).shape == (2,)


def test_blocks_begin_as_the_identity() -> None:
    images = torch.randn(2, 16, 8, 8)
    network = R3GANGenerator(32, 5, width=16, max_width=16)
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 2 * 4
    assert all(torch.equal(block(images), images) for block in blocks)


def test_new_networks_keep_the_variance() -> None:
    """At every depth, from latents to images and from images to logits."""
    torch.manual_seed(0)
    for blocks in (1, 4):
        options: dict[str, Any] = {"width": 16, "max_width": 16, "blocks": blocks}
        images = R3GANGenerator(32, 64, **options)(torch.randn(64, 64))
        assert 0.2 < images.std() < 2
        assert 0.02 < R3GANDiscriminator(32, **options)(torch.randn(64, 3, 32, 32)).std() < 2


def test_groups_and_bottlenecks_follow_the_options() -> None:
    block = ResidualBlock(32, expansion=3, group_size=16)
    convolutions = [layer for layer in block.layers if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == [(1, 1), (3, 3), (1, 1)]
    assert [layer.out_channels for layer in convolutions] == [96, 96, 32]
    assert convolutions[1].weight.shape == (96, 16, 3, 3)
    assert [layer.weight.shape[1] for layer in ResidualBlock(20, 1, 16).layers if isinstance(layer, nn.Conv2d)][1] == 4


def test_upsampling_is_bilinear() -> None:
    images = torch.randn(2, 3, 8, 8)
    inside = (..., slice(1, -1), slice(1, -1))
    bilinear = interpolate(images, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(Resample(3, up=True)(images)[inside], bilinear[inside])


def test_downsampling_is_the_adjoint_of_upsampling() -> None:
    """Up to a factor: <down x, y> = <x, up y> / 4; a constant image stays constant inside."""
    down, up = Resample(3, up=False), Resample(3, up=True)
    images, smaller = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 8, 8)
    torch.testing.assert_close((down(images) * smaller).sum(), (images * up(smaller)).sum() / 4)
    torch.testing.assert_close(down(torch.ones(1, 3, 16, 16))[..., 1:-1, 1:-1], torch.ones(1, 3, 6, 6))


def test_changing_the_width_commutes_with_upsampling() -> None:
    images, weight = torch.randn(1, 6, 8, 8), torch.randn(3, 6, 1, 1)
    torch.testing.assert_close(
        Resample(3, up=True)(conv2d(images, weight)), conv2d(Resample(6, up=True)(images), weight)
    )


def test_largest_network_has_the_papers_size() -> None:
    """The paper's network at 256 pixels has 22 million parameters."""
    with torch.device("meta"):
        large = R3GANGenerator(256, 64, width=96, max_width=768, blocks=2, expansion=2, group_size=16)
    assert 20e6 < sum(weight.numel() for weight in large.parameters()) < 30e6
