"""Randomness as a function of the seed, the process and the images seen."""

from typing import Any

import torch
from lightning import Callback, Trainer

from src.models.generative_model import GenerativeModel
from src.schema import Seed
from src.seeds import mixed_seed


def step_seed(seed: int, rank: int, images_seen: int) -> int:
    """64 bits, different for every seed, process and step."""
    return mixed_seed(seed, rank, images_seen)


def seed_generators(seed: int, device: torch.device) -> None:
    """The CPU's generator and the device's. (torch.manual_seed spends 0.5 ms on GPUs not in use.)"""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


class StepSeeds(Callback):
    """Seeds torch before every step. So each process draws noise of its own, a resumed run draws what an unbroken one
    would have drawn, and whatever draws between steps (metrics, grids) changes nothing. The seed travels in the
    checkpoint: a resumed run goes on with its own."""

    def __init__(self, seed: Seed) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        seed_generators(step_seed(self.seed, trainer.global_rank, model.images_seen), model.device)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed = state_dict["seed"]
