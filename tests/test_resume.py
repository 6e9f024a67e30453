"""A run that is killed and goes on ends as one that was never stopped, bit for bit."""

import csv
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.killed_runs import config_of_a_run, finish, kill, start
from tests.tiny import assert_same

MODELS = ["autoencoder", "vae", "gan"]
OF_THE_CLOCK = {"train/images_per_second", "train/data_wait_fraction"}


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def curves(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in csv.DictReader(file)]


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = load(one / "checkpoints" / name), load(other / "checkpoints" / name)
        for part in ("state_dict", "optimizer_states", "images_seen", "global_step"):
            assert_same(ours[part], theirs[part], f"{name}: {part}")
        assert_same(ours["training_scalars"]["groups"], theirs["training_scalars"]["groups"], name)
    assert curves(one) == curves(other)
    pictures = sorted(path.name for path in (one / "images").iterdir())
    assert pictures == sorted(path.name for path in (other / "images").iterdir())
    assert all((one / "images" / name).read_bytes() == (other / "images" / name).read_bytes() for name in pictures)
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (one, other)]
    assert names[0] == names[1]


def straight_run(model: str, folder: Path, processes: int, *overrides: str) -> float:
    """Runs without a stop; the seconds it took."""
    started_at = time.monotonic()
    config = config_of_a_run(model, folder, f"trainer.devices={processes}", *overrides)
    started_at = time.monotonic()
    assert finish(start(config, processes)) == [0] * processes, (folder / "output.txt").read_text()
    return time.monotonic() - started_at


def kill_and_go_on(model: str, kills: int, processes: int, folder: Path, seed: int) -> None:
    """Kills each of `kills` runs at a random moment, once or twice; every one of them ends like the straight one."""
    straight = folder / "straight"
    straight_run(model, folder / "first", processes)  # fills caches
    seconds = straight_run(model, straight, processes)
    moments = random.Random(seed)
    for number in range(kills):
        run = folder / f"killed_{number}"
        config = config_of_a_run(model, run, f"trainer.devices={processes}")
        for _ in range(moments.choice([1, 2])):
            ranks = start(config, processes)
            time.sleep(seconds * moments.uniform(0.2, 1.0))
            kill(ranks)
        assert finish(start(config, processes)) == [0] * processes, (run / "output.txt").read_text()
        assert_same_run(straight, run)


@pytest.mark.parametrize("model", MODELS)
def test_killed_run_ends_as_if_never_stopped(model: str, tmp_path: Path) -> None:
    kill_and_go_on(model, kills=2, processes=1, folder=tmp_path, seed=time.time_ns())
