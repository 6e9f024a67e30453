"""A checkpoint's states of optimizers, callbacks and loops, from which a run resumes: made to fit, or refused."""

from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from src.config.validation import adapter
from src.core.errors import UserError, printable

MAX_COUNT = 10**15


def mismatch(what: str) -> UserError:
    return UserError(
        f"the checkpoint holds {printable(what)[:200]}, which no run writes: refused; give another checkpoint"
    )


def checked_state(owner: str, state: Any, annotations: dict[str, Any]) -> dict[str, Any]:
    """Return a callback's state in the types of the annotations. Raises UserError where it is of another kind."""
    try:
        return {name: adapter(annotation).validate_python(state[name]) for name, annotation in annotations.items()}
    except (LookupError, TypeError, ValidationError) as error:
        raise mismatch(f"a state of {owner} of another kind") from error


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer the settings of its constructor, not the file's, and check what it remembers of each weight.

    It must be what the optimizer itself would remember after a step. Raises UserError.
    """
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)  # see GenerativeModel.apply_schedules
        group.update(optimizer.defaults)
    for weight, state in optimizer.state.items():
        if not isinstance(weight, Tensor) or not isinstance(state, dict):
            raise mismatch("an optimizer's state of no weight")
        like = torch.zeros(1, device=weight.device, requires_grad=True)
        like.grad = torch.zeros_like(like)
        group = {"params": [like], **optimizer.defaults}  # AdamW's constructor lacks one of these
        fresh = type(optimizer)([group])  # type: ignore[call-arg]
        fresh.step()
        for name in fresh.state[like].keys() | state.keys():
            value, expected = state.get(name), fresh.state[like].get(name)
            if type(value) is not type(expected):
                raise mismatch(f"an optimizer's {name} of another kind")
            if isinstance(value, Tensor) and isinstance(expected, Tensor):
                if value.shape != (weight.shape if expected.ndim else ()):
                    raise mismatch(f"an optimizer's {name} of shape {list(value.shape)} for {list(weight.shape)}")
                if not value.isfinite().all() or (not expected.ndim and value < 0):
                    raise mismatch(f"an optimizer's {name} that is no possible number")


def check_loops(ours: Any, theirs: Any, path: str = "loops") -> None:
    """Raise UserError unless the numbers of Lightning's loops in a file are of the kinds and size of a new run's."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours.keys() & theirs.keys():
            check_loops(ours[key], theirs[key], f"{path}.{key}")
    elif type(ours) is not type(theirs) or (isinstance(theirs, int) and not 0 <= theirs <= MAX_COUNT):
        raise mismatch(f"{path} = {theirs!r:.40}")
