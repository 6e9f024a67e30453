"""Means over a batch that several processes share."""

import torch
from torch import Tensor, distributed


@torch.no_grad()
def mean_of_all(values: Tensor) -> tuple[Tensor, int]:
    """The mean over the first axis of the batch (N, ...) of all processes together, and how many N they are.

    Constants of the gradient. Every process must call it, with as many values as the others.
    """
    mean, count = values.mean(dim=0), len(values)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(mean)
        mean, count = mean / distributed.get_world_size(), count * distributed.get_world_size()
    return mean, count
