"""The adaptive probability depends on the logits of all ranks."""

from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from src.networks.augmentation import AdaptiveAugmentation

STEPS = 12


def logits(step: int) -> tuple[Tensor, Tensor]:
    """Return logits of a batch of 8 whose halves have different means."""
    generator = torch.Generator().manual_seed(step)
    real, fake = torch.randn(2, 8, generator=generator)
    return real + torch.arange(8.0), fake


def adapted(part: slice) -> dict[str, Tensor]:
    ada = AdaptiveAugmentation(target=0.3, speed_images=500, memory_images=16)
    for step in range(STEPS):
        real, fake = logits(step)
        ada.update(real[part], fake[part], 0)
    return ada.state_dict()


def on_one_of_two_ranks(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(adapted(slice(4 * rank, 4 * rank + 4)), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_with_half_a_batch_each_match_one_rank_with_all_of_it(tmp_path: Path) -> None:
    spawn(on_one_of_two_ranks, args=(tmp_path,), nprocs=2)
    together, alone = adapted(slice(None)), adapted(slice(4))
    assert together["probability"] > 0
    assert not torch.equal(alone["overfitting"], together["overfitting"])
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == together
