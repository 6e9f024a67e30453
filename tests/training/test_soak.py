"""A long run: its memory and descriptors stay what they were."""

from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from src.training.fit import fit
from tests.helpers.commands import config_of, tiny
from tests.helpers.killed_runs import FORKS, finish


@pytest.mark.parametrize("steps", [400, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_evaluations_checkpoints_and_grids_leave_nothing_behind(steps: int, tmp_path: Path) -> None:
    """500 evaluations in 20,000 steps, with as many grids and a checkpoint after each fifth."""
    options = [
        "data.batch_size=4",
        f"max_images={4 * steps}",
        "metrics=none",
        "model.latent_dim=4",
        "callbacks.training_scalars.every_images=40",
        "callbacks.evaluation.every_images=160",
        "callbacks.image_grids.every_images=160",
        "callbacks.image_grids.num_images=4",
        "callbacks.checkpoints.every_images=800",
        "+callbacks.meter._target_=tests.helpers.probe.Meter",
        f"+callbacks.meter.folder={tmp_path}",
        "+callbacks.meter.every_images=160",
        f"run_dir={tmp_path}/run",
    ]
    (tmp_path / "run").mkdir()
    # In a process of its own, where nothing that earlier tests left open is closed meanwhile.
    run: BaseProcess = FORKS.Process(target=fit, args=(config_of(*tiny("vae", *options)),))
    run.start()
    assert finish([run], timeout=7_000) == [0]
    readings = [[int(number) for number in line.split()] for line in (tmp_path / "meter.txt").read_text().splitlines()]
    assert len(readings) == steps // 40
    megabytes, descriptors = zip(*readings[len(readings) // 5 :], strict=True)
    print(f"{steps} steps: {megabytes[0]} to {megabytes[-1]} MB, {descriptors[0]} to {descriptors[-1]} descriptors")
    assert max(descriptors) == min(descriptors)
    assert max(megabytes[len(megabytes) // 2 :]) - max(megabytes[: len(megabytes) // 2]) < 30
