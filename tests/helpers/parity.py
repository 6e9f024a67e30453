"""Runs that must be the same on one rank and on two: `python -m tests.helpers.parity FOLDER`.

Each rank otherwise draws noise of its own. Here it draws the noise of the whole batch and keeps its part.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor

from src.callbacks import periodic
from src.core.seeds import mixed_seed
from src.models.base import GenerativeModel
from src.training.fit import fit
from tests.helpers.commands import config_of, tiny

MODELS: dict[str, list[str]] = {
    "autoencoder": ["autoencoder"],
    "vae": ["vae"],
    "vae_free_bits": ["vae", "model.free_bits=0.1"],
    "gan": ["gan"],
    "gan_wasserstein": ["gan", "model/adversarial_loss=wasserstein"],
    "gan_average": ["gan", "model/adversarial_loss=relativistic_average"],
    "gan_average_least_squares": ["gan", "model/adversarial_loss=relativistic_average_least_squares"],
}
STEPS, BATCH = 20, 16


class Gradients(Callback):
    """Keeps every gradient that an optimizer steps along; writes them and the last weights to a file."""

    def __init__(self, path: str) -> None:
        self.path, self.gradients = Path(path), list[Tensor]()

    def on_before_optimizer_step(self, trainer: Trainer, model: Any, optimizer: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.gradients.append(torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None]))

    def on_train_end(self, trainer: Trainer, model: GenerativeModel) -> None:  # type: ignore[override]
        state = {"gradients": self.gradients, "weights": model.state_dict()}
        torch.save(state, self.path.with_name(f"{self.path.name}{trainer.global_rank}.pt"))


def for_the_whole_batch(draw: Callable[..., Tensor], rank: int, world_size: int) -> Callable[..., Tensor]:
    """Return torch.randn or torch.rand, drawing for all ranks' batch and keeping this rank's part of it.

    Evaluations, which have generators of their own, draw as before.
    """

    def drawn(first: Any, *others: int, **options: Any) -> Tensor:
        if "generator" in options:
            return draw(first, *others, **options)
        return draw(first * world_size, *others, **options)[rank * first : (rank + 1) * first]

    return drawn


def train_all(folder: Path, rank: int = 0, world_size: int = 1) -> None:
    """Train every model for 20 steps in float64."""
    with pytest.MonkeyPatch.context() as patch:
        randn = for_the_whole_batch(torch.randn, rank, world_size)
        patch.setattr(torch, "rand", for_the_whole_batch(torch.rand, rank, world_size))
        patch.setattr(torch, "randn_like", lambda like: randn(*like.shape, dtype=like.dtype))
        patch.setattr(torch, "randn", randn)
        patch.setattr(periodic, "mixed_seed", lambda seed, rank, images_seen: mixed_seed(seed, 0, images_seen))
        for name, model in MODELS.items():
            options = [
                "trainer.precision=64-true",
                f"trainer.devices={world_size}",
                f"max_images={STEPS * BATCH}",
                "callbacks.training_scalars.every_images=16",
                f"callbacks.evaluation.every_images={STEPS * BATCH}",
                "callbacks.image_grids=null",
                "metrics=none",
                f"run_dir={folder}/{name}",
                "+callbacks.gradients._target_=tests.helpers.parity.Gradients",
                f"+callbacks.gradients.path={folder}/{name}/rank",
            ]
            (folder / name).mkdir(parents=True, exist_ok=True)
            fit(config_of(*tiny(*model, *options)))


if __name__ == "__main__":
    train_all(Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
