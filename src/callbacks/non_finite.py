"""Numbers that break: a loss, a penalty or a gradient that is not finite."""

from typing import Any, Literal, NamedTuple

import torch
from lightning import Callback, Trainer
from torch import Tensor, distributed, nn

from src.callbacks.checkpoints import describe_last_checkpoint
from src.callbacks.periodic import log_metrics, should_run
from src.core.distributed import LargestOfRanks
from src.core.errors import UserError
from src.core.types import PositiveInt
from src.models.base import GenerativeModel


class Step(NamedTuple):
    """What one training step is judged by: for each name whether the number was finite, perhaps still on its way."""

    images_seen: int
    names: list[str]
    finite: Tensor
    arrived: torch.cuda.Event | None


class NonFinite(Callback):
    """Looks at every loss, every gradient and every value that a training step returns.

    action=stop ends the run in a sentence with the first name, the images seen and the last sound checkpoint.
    action=skip leaves the weights and the optimizer as they were, and logs train/skipped_steps, the optimizer steps
    left out so far. (Buffers that a network updates in its forward pass, such as batch normalization's, are not
    brought back.)

    On a CPU the weights never take up such a gradient. On a GPU nothing waits for the device: a fused optimizer leaves
    out the step by itself; another one does so with action=skip, which then waits for the device; with stop the run
    ends a few steps later, and Checkpoints writes no broken weights meanwhile. With 16-mixed, gradients are the
    business of Lightning's scaler.
    """

    def __init__(self, action: Literal["stop", "skip"], every_images: PositiveInt) -> None:
        self.action, self.every_images = action, every_images
        self.agreement = LargestOfRanks()
        self.names: list[str] = []
        self.finite: list[Tensor] = []
        self.on_the_way: list[Step] = []
        self.failure: str | None = None
        self.skipped: Tensor | int = 0
        self.loss_is_finite: Tensor | None = None
        self.names_of_weights: dict[nn.Parameter, str] = {}

    def on_train_batch_start(self, *args: Any) -> None:
        self.names, self.finite, self.loss_is_finite = [], [], None

    def on_before_backward(self, trainer: Trainer, model: GenerativeModel, loss: Tensor) -> None:  # type: ignore[override]
        self.loss_is_finite = loss.detach().isfinite().reshape(1)
        self.names.append("loss")
        self.finite.append(self.loss_is_finite)

    def on_before_optimizer_step(  # type: ignore[override]
        self, trainer: Trainer, model: GenerativeModel, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.precision == "16-mixed":
            return
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        finite = torch.stack(torch._foreach_norm([weight.grad for weight in weights])).isfinite()
        if not self.names_of_weights:
            self.names_of_weights = {weight: name for name, weight in model.named_parameters()}
        self.names += [f"the gradient of {self.names_of_weights[weight]}" for weight in weights]
        self.finite.append(finite)
        sound = finite.all()
        if self.action == "skip":
            sound = self.of_all_ranks(trainer, sound)
        supports_skipping = getattr(optimizer, "_step_supports_amp_scaling", False)
        if supports_skipping:
            # What torch's own gradient scaler tells a fused optimizer: it then does nothing, on the device.
            optimizer.found_inf = (~sound).float()  # type: ignore[attr-defined]
            self.skipped = self.skipped + (~sound).long()
        elif (self.action == "skip" or sound.device.type == "cpu") and not sound:
            for weight in weights:
                weight.grad = None
            self.skipped = self.skipped + 1

    def of_all_ranks(self, trainer: Trainer, sound: Tensor) -> Tensor:
        """Gradients are the same everywhere, a process's loss is its own: one that is not finite counts for all."""
        if self.loss_is_finite is not None:
            sound = sound & self.loss_is_finite.all()
        if trainer.world_size == 1:
            return sound
        everywhere = sound.int()
        distributed.all_reduce(everywhere, distributed.ReduceOp.MIN)
        return everywhere.bool()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, model: GenerativeModel, outputs: dict[str, Any], *args: Any
    ) -> None:
        if self.action == "skip":
            if should_run(trainer, model, self.every_images):
                log_metrics(trainer, {"train/skipped_steps": float(self.skipped)}, model.images_seen)
            return
        values = {name: value.detach() for name, value in outputs.items() if isinstance(value, Tensor)}
        if values:
            self.names += [f"output {name}" for name in values]
            self.finite.append(torch.stack([value.float() for value in values.values()]).isfinite())
        self.on_the_way.append(send(model.images_seen, self.names, torch.cat(self.finite)))
        while self.on_the_way and (self.on_the_way[0].arrived is None or self.on_the_way[0].arrived.query()):
            self.look_at_oldest()
        if self.agreement(int(self.failure is not None)):
            self.stop_if_any_failed(trainer)

    def on_save_checkpoint(self, trainer: Trainer, *args: Any) -> None:
        self.catch_up(trainer)

    def on_train_end(self, trainer: Trainer, *args: Any) -> None:
        self.catch_up(trainer)

    def catch_up(self, trainer: Trainer) -> None:
        """Waits for what is on the way and for the other processes: no checkpoint is written past a broken number."""
        while self.on_the_way:
            self.look_at_oldest()
        if self.action == "stop":
            self.stop_if_any_failed(trainer)

    def look_at_oldest(self) -> None:
        step = self.on_the_way.pop(0)
        if step.arrived is not None:
            step.arrived.synchronize()
        if self.failure is None and not step.finite.all():
            self.failure = f"{culprit(step)} is not finite after {step.images_seen:,} images"

    def stop_if_any_failed(self, trainer: Trainer) -> None:
        """With what the first process says that has failed. Every process calls it at the same step."""
        failures: list[str | None] = [self.failure] * trainer.world_size
        if trainer.world_size > 1:
            distributed.all_gather_object(failures, self.failure)
        failure = next((failure for failure in failures if failure), None)
        if failure:
            raise UserError(f"{failure}; {describe_last_checkpoint(trainer)}")

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": int(self.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]


def send(images_seen: int, names: list[str], finite: Tensor) -> Step:
    """From a GPU to here without waiting."""
    if finite.device.type != "cuda":
        return Step(images_seen, names, finite.cpu(), None)
    here = torch.empty(finite.shape, dtype=torch.bool, pin_memory=True)
    here.copy_(finite, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return Step(images_seen, names, here, event)


def culprit(step: Step) -> str:
    """What broke first. A loss is told by those of its parts that broke too."""
    broken = [name for name, finite in zip(step.names, step.finite.tolist(), strict=True) if not finite]
    if broken[0].startswith("the gradient of"):
        return broken[0]
    parts = [name.removeprefix("output ") for name in broken if name.startswith("output ")]
    return " and ".join(parts) or "the loss"
