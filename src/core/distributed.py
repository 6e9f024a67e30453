"""Exchanges between the ranks of a run; with one rank, every function returns that rank's own values."""

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_reduce

T = TypeVar("T")


def get_rank() -> int:
    """Return the rank of this process, 0 without torch.distributed."""
    return distributed.get_rank() if is_distributed() else 0


def is_distributed() -> bool:
    """Tell whether torch.distributed connects this process with others."""
    return distributed.is_available() and distributed.is_initialized()


def all_reduce_mean(values: Tensor) -> tuple[Tensor, int]:
    """Return the mean (...) over all ranks' values (N, ...), and how many there are on all ranks together.

    The mean is differentiable in each of them. Every rank must call it with the same N, and go backward through it
    unless its values are detached.
    """
    mean, count = values.mean(dim=0), len(values)
    if not is_distributed():
        return mean, count
    ranks = distributed.get_world_size()
    return all_reduce(mean) / ranks, count * ranks


def all_gather(values: Tensor) -> Tensor:
    """Return the values (N, D) of all ranks as one tensor (ranks * N, D), in the order of the ranks."""
    if not is_distributed():
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def gather_rows(batches: Iterable[Tensor], width: int, device: torch.device) -> Tensor:
    """Return the rows of all ranks' batches (n, width) as one tensor (N, width), float32 on the CPU.

    The rows of the ranks are interleaved: where rank r of R holds images r, r + R, ..., the result is in the order of
    the images. Every rank must call it, and may have fewer rows than others, or none. device: where ranks exchange
    tensors.
    """
    # A rank without rows must still offer (0, width) to the others.
    rows = torch.cat([torch.empty(0, width), *(batch.float().cpu() for batch in batches)])
    if not is_distributed():
        return rows
    from torchmetrics.utilities.distributed import gather_all_tensors  # slow to import

    parts = [part.cpu() for part in gather_all_tensors(rows.to(device))]
    places = torch.cat([torch.arange(len(part)) for part in parts])
    return torch.cat(parts)[places.argsort(stable=True)]


def broadcast_object(value: T, device: torch.device) -> T:
    """Return rank zero's value on every rank."""
    if not is_distributed():
        return value
    holder = [value]
    distributed.broadcast_object_list(holder, src=0, device=device)
    return holder[0]


class LargestOfRanks:
    """Returns to every rank the largest value that any of them passes, without a wait in the training loop.

    Every rank calls it after every step. With several ranks the answer is that of the step before, as the exchange
    runs on the CPU meanwhile: pass a value until it is returned. 0 means nothing.
    """

    def __init__(self) -> None:
        self.pending: tuple[distributed.Work, Tensor] | None = None
        self.group: distributed.ProcessGroup | None = None

    def __call__(self, value: int) -> int:
        if not is_distributed() or distributed.get_world_size() == 1:
            return value
        if self.group is None:
            self.group = distributed.new_group(backend="gloo")  # type: ignore[assignment]
        agreed = 0
        if self.pending:
            work, largest = self.pending
            work.wait()
            agreed = int(largest)
        # A value that was just returned is not passed again.
        values = torch.tensor(0 if agreed else value)
        work = distributed.all_reduce(values, distributed.ReduceOp.MAX, self.group, async_op=True)
        self.pending = work, values
        return agreed
