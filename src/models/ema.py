"""An exponential moving average of a network's weights, its memory measured in images."""

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, num_images: int, halflife_images: float) -> None:
    """Move `average` towards `network` by num_images and copy its buffers.

    After halflife_images the old weights count half; 0 copies the weights.
    """
    decay = 0.5 ** (num_images / halflife_images) if halflife_images else 0.0
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(averages, weights, 1 - decay)
    for buffer, current in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(current)


@torch.no_grad()
def relative_distance(average: nn.Module, network: nn.Module) -> Tensor:
    """Return ||average - network|| / ||network|| over all weights: a scalar."""
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(network.parameters())
    difference = get_total_norm(torch._foreach_sub(averages, weights))
    return difference / get_total_norm(weights)
