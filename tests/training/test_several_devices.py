"""Two ranks with half the batch each train as one with all of it."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from src.training.launcher import rank_environments
from tests.helpers.commands import REPOSITORY
from tests.helpers.parity import MODELS, STEPS, train_all

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5
# Measured on each rank's own pairs, or no property of the training.
OTHERS = ("val/", "discriminator_auroc", "images_per_", "seconds", "data_wait")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folders of the runs of one rank and of two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.parity", str(two)],
            cwd=REPOSITORY,
            env=environment | {"OMP_NUM_THREADS": "1"},
        )
        for environment in rank_environments(2)
    ]
    train_all(one)
    assert [rank.wait(800) for rank in ranks] == [0, 0]
    return one, two


def state(folder: Path, rank: int) -> dict[str, Any]:
    return torch.load(folder / f"rank{rank}.pt", weights_only=True)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value where that is above one."""
    return float((one - other).abs().max() / max(float(one.abs().max()), 1.0))


def curves(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        {name: float(value) for name, value in row.items() if value and not any(part in name for part in OTHERS)}
        for row in rows
    ]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", MODELS)
def test_two_ranks_equal_one_with_the_whole_batch(model: str, folders: tuple[Path, Path]) -> None:
    one, two = (folder / model for folder in folders)
    alone, first, second = state(one, 0), state(two, 0), state(two, 1)
    assert len(alone["gradients"]) == STEPS * (2 if "gan" in model else 1)
    furthest = max(map(distance, alone["gradients"], first["gradients"]))
    assert furthest < TOLERANCE
    # The mixture is fitted on latents drawn in evaluations: no part of training.
    for name, weight in alone["weights"].items():
        if name.startswith("mixture."):
            continue
        assert distance(weight, first["weights"][name]) < TOLERANCE, name
        assert torch.equal(first["weights"][name], second["weights"][name]), name
    ours, theirs = curves(one), curves(two)
    assert len(ours) == STEPS
    assert [row["images_seen"] for row in ours] == [row["images_seen"] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        assert row == pytest.approx(other, rel=TOLERANCE, abs=TOLERANCE)
