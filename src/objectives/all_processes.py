"""Means over a batch that several processes share."""

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_reduce


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


def differentiable_mean_of_all(values: Tensor) -> Tensor:
    """The mean of the values (N,) of all processes together, with its gradient on each of them: ().

    Every process must call it, with as many values as the others, and go backward through it.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values.mean()
    total: Tensor = all_reduce(values.mean())
    return total / distributed.get_world_size()
