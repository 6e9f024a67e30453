from types import SimpleNamespace
from typing import Any, cast

import torch
from lightning import Callback, Trainer
from torch import Tensor

from src.callbacks.periodic import StepSeeds
from src.core.seeds import mixed_seed
from src.models.base import GenerativeModel
from tests.helpers.tiny import ScriptedModel, tiny_data, train


def noise(seed: int, rank: int, images_seen: int) -> Tensor:
    """Return the noise that the step draws."""
    trainer = SimpleNamespace(global_rank=rank)
    model = SimpleNamespace(images_seen=images_seen, device=torch.device("cpu"))
    StepSeeds(seed).on_train_batch_start(cast(Trainer, trainer), cast(GenerativeModel, model))
    return torch.randn(8)


def test_noise_differs_between_seeds_ranks_and_steps() -> None:
    drawn = [noise(seed, rank, images) for seed in range(4) for rank in range(4) for images in range(0, 256, 64)]
    assert len(torch.stack(drawn).unique(dim=0)) == 64


def test_noise_depends_on_nothing_else() -> None:
    first = noise(1, 2, 64)
    torch.rand(100)
    assert torch.equal(noise(1, 2, 64), first)


def test_seeds_of_neighbours_never_meet() -> None:
    """Seed 1 of rank 0 is not seed 0 of rank 1, nor is 11 images at rank 1 one image at rank 11."""
    seeds = {mixed_seed(seed, rank, images) for seed in range(20) for rank in range(20) for images in range(20)}
    assert len(seeds) == 20**3
    assert all(0 <= seed < 2**64 for seed in seeds)


class DrawsBetweenSteps(Callback):
    def __init__(self, num_draws: int) -> None:
        self.num_draws = num_draws

    def on_train_batch_end(self, *args: Any) -> None:
        torch.rand(self.num_draws)


class NoisyModel(ScriptedModel):
    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        self.drawn.append(torch.rand(()).item())
        return super().training_step(images, batch_idx)


def test_draws_between_steps_change_nothing() -> None:
    models = [NoisyModel(), NoisyModel()]
    for num_draws, model in enumerate(models):
        train(model, tiny_data(), max_images=20, callbacks=[StepSeeds(0), DrawsBetweenSteps(num_draws)])
    assert models[0].drawn == models[1].drawn
    assert len(set(models[0].drawn)) == 5
