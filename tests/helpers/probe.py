"""Callbacks for tests: one records the noise and the weights of every rank, one makes a rank fail."""

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from src.callbacks.periodic import PeriodicCallback
from src.models.base import GenerativeModel


def digest(tensors: list[Tensor]) -> str:
    """Return a SHA-256 of the tensors' bytes."""
    return hashlib.sha256(b"".join(tensor.detach().cpu().numpy().tobytes() for tensor in tensors)).hexdigest()


class Probe(Callback):
    """Writes <folder>/rank<N>.json: digests of the noise of every step and of the weights at the end."""

    def __init__(self, folder: str) -> None:
        self.folder, self.noise = Path(folder), list[str]()

    def on_train_batch_start(self, *args: Any) -> None:
        with torch.random.fork_rng(devices=[]):
            self.noise.append(digest([torch.randn(8)]))

    def on_train_end(self, trainer: Trainer, model: GenerativeModel) -> None:  # type: ignore[override]
        state = {"noise": self.noise, "weights": digest(list(model.state_dict().values()))}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(state))


class FailingRank(Callback):
    """Ends the last rank after the first step: how="kill" as the system would, how="raise" by an error of its own.

    Anything else leaves it alone.
    """

    def __init__(self, how: str) -> None:
        self.how = how

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_rank == trainer.world_size - 1:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "raise":
                raise RuntimeError("the disk is on fire")


class Meter(PeriodicCallback):
    """Adds a line to <folder>/meter.txt at an interval: resident memory in MB, and open descriptors."""

    def __init__(self, folder: str, every_images: int) -> None:
        super().__init__(every_images)
        self.folder = Path(folder)

    def run(self, trainer: Trainer, model: GenerativeModel) -> None:
        megabytes = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 10**6
        with (self.folder / "meter.txt").open("a") as file:
            file.write(f"{megabytes} {len(os.listdir('/proc/self/fd'))}\n")
