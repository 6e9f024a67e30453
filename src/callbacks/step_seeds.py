"""Randomness as a function of the seed, the rank and the images seen."""

from dataclasses import dataclass
from typing import Any

from lightning import Callback, Trainer

from src.core.seeds import mixed_seed, seed_generators
from src.core.types import Seed
from src.models.checkpoint.states import checked_state


@dataclass(eq=False)
class StepSeeds(Callback):
    """Seeds torch before every step. The seed is part of the checkpoint: a resumed run keeps it.

    So each rank draws noise of its own, a resumed run draws what an uninterrupted one would have drawn, and whatever
    draws between steps (metrics, grids) changes nothing.
    """

    seed: Seed

    def on_train_batch_start(self, trainer: Trainer, model: Any, *args: Any) -> None:
        seed_generators(mixed_seed(self.seed, trainer.global_rank, model.images_seen), model.device)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed = checked_state("StepSeeds", state_dict, {"seed": Seed})["seed"]
