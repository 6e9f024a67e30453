"""Randomness as a function of the seed, the rank and the images seen."""

from typing import Any

from lightning import Callback, Trainer

from src.core.seeds import mixed_seed, seed_generators
from src.core.types import Seed


def step_seed(seed: int, rank: int, images_seen: int) -> int:
    """Return 64 bits that are different for every seed, rank and step."""
    return mixed_seed(seed, rank, images_seen)


class StepSeeds(Callback):
    """Seeds torch before every step.

    So each rank draws noise of its own, a resumed run draws what an uninterrupted one would have drawn, and whatever
    draws between steps (metrics, grids) changes nothing. The seed is part of the checkpoint: a resumed run keeps it.
    """

    def __init__(self, seed: Seed) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, model: Any, *args: Any) -> None:
        seed_generators(step_seed(self.seed, trainer.global_rank, model.images_seen), model.device)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed = state_dict["seed"]
