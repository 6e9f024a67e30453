"""What one process has noticed, known to all of them at the same step."""

import torch
from torch import Tensor, distributed


class Agreement:
    """Called by every process after every step: the largest value that any of them brought.

    With several processes the answer is that of the step before: the exchange runs on the CPU meanwhile, so that
    neither the processes nor the device wait for it. Hence bring a value until it comes back.
    """

    def __init__(self) -> None:
        self.pending: tuple[distributed.Work, Tensor] | None = None
        self.group: distributed.ProcessGroup | None = None

    def __call__(self, value: int) -> int:
        if not distributed.is_initialized() or distributed.get_world_size() == 1:
            return value
        if self.group is None:
            self.group = distributed.new_group(backend="gloo")  # type: ignore[assignment]
        agreed = 0
        if self.pending:
            work, largest = self.pending
            work.wait()
            agreed = int(largest)
        # What has just been agreed on is not asked for again.
        values = torch.tensor(0 if agreed else value)
        work = distributed.all_reduce(values, distributed.ReduceOp.MAX, self.group, async_op=True)
        self.pending = work, values
        return agreed
