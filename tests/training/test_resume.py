"""A run that is killed, or stopped by a signal, goes on and ends as one that was never stopped, bit for bit."""

import csv
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from src.core.errors import STOPPED, UserError
from src.models.checkpoint.format import read_file
from src.models.checkpoint.loading import read_checkpoint
from src.training import launcher
from src.training.resume import latest_valid_checkpoint
from tests.helpers.commands import config_of, tiny
from tests.helpers.killed_runs import begin, config_of_a_run, finish, kill, start, wait_for_file, words
from tests.helpers.tiny import assert_same

MODELS = ["autoencoder", "vae", "gan", "vae_gan"]
OF_THE_CLOCK = {"train/images_per_second", "train/images_per_cpu_second", "train/data_wait_fraction"}
NEWEST, ONE_BEFORE = "images_000000384.safetensors", "images_000000336.safetensors"
Straight = Callable[[str, int], tuple[Path, float]]


def curves(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in csv.DictReader(file)]


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = read_file(one / "checkpoints" / name), read_file(other / "checkpoints" / name)
        for part in ("state_dict", "optimizer_states", "images_seen", "global_step"):
            assert_same(ours[part], theirs[part], f"{name}: {part}")
        assert_same(ours["training_scalars"]["groups"], theirs["training_scalars"]["groups"], name)
    assert curves(one) == curves(other)
    images = sorted(path.name for path in (one / "images").iterdir())
    assert images == sorted(path.name for path in (other / "images").iterdir())
    assert all((one / "images" / name).read_bytes() == (other / "images" / name).read_bytes() for name in images)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Runs a model in so many processes without a stop, once: its folder, and the seconds that it takes."""
    # The fork server takes long to start.
    finish([begin()])

    @cache
    def run(model: str, processes: int) -> tuple[Path, float]:
        folder = tmp_path_factory.mktemp("straight")
        config = config_of_a_run(model, folder, f"trainer.devices={processes}")
        started_at = time.monotonic()
        assert finish(start(config, None)) == [0] * processes, words(folder)
        return folder, time.monotonic() - started_at

    return run


def kill_and_go_on(model: str, processes: int, kills: int, straight: Straight, folder: Path) -> None:
    """Kills each of so many runs at a random moment, some a second time as they go on."""
    reference, seconds = straight(model, processes)
    for number in range(kills):
        run = folder / str(number)
        config = config_of_a_run(model, run, f"trainer.devices={processes}")
        for _ in range(random.choice([1, 2])):
            ranks = start(config)
            time.sleep(random.uniform(0, seconds))
            kill(ranks)
        assert finish(start(config)) == [0] * processes, words(run)
        assert_same_run(reference, run)


@pytest.mark.parametrize(
    ("model", "processes", "kills"),
    [
        ("gan", 1, 1),
        pytest.param("autoencoder", 1, 1, marks=pytest.mark.slow),
        pytest.param("vae", 1, 2, marks=pytest.mark.slow),
        pytest.param("gan", 2, 1, marks=pytest.mark.slow),
    ],
)
def test_killed_run_ends_as_if_never_stopped(
    model: str, processes: int, kills: int, straight: Straight, tmp_path: Path
) -> None:
    kill_and_go_on(model, processes, kills, straight, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_twenty_killed_runs_end_as_if_never_stopped(
    model: str, processes: int, straight: Straight, tmp_path: Path
) -> None:
    kill_and_go_on(model, processes, 20 // processes, straight, tmp_path)


@pytest.mark.parametrize(
    ("number", "processes"),
    [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGHUP, 1), (signal.SIGUSR1, 2), (signal.SIGHUP, 2)],
)
def test_signal_stops_a_run_with_a_checkpoint_of_this_step(
    number: int, processes: int, straight: Straight, tmp_path: Path
) -> None:
    """With two processes only the second one gets it."""
    reference, _ = straight("gan", processes)
    pause = ["+callbacks.pause._target_=tests.helpers.killed_runs.Pause", f"+callbacks.pause.folder={tmp_path}"]
    config = config_of_a_run("gan", tmp_path, f"trainer.devices={processes}", *pause, "+callbacks.pause.at=64")
    ranks = start(config)
    wait_for_file(tmp_path / "paused")
    os.kill(ranks[-1].pid or 0, number)
    (tmp_path / "released").touch()
    assert finish(ranks) == [STOPPED] * processes, words(tmp_path)
    written = [path.name for path in (tmp_path / "checkpoints").glob("images_*")]
    # Several processes need a step or two to agree.
    assert max(written) in [f"images_{images:09d}.safetensors" for images in (64, 80, 96, 112)]
    assert f"stopped by {signal.Signals(number).name} after" in words(tmp_path)
    assert finish(start(config)) == [0] * processes, words(tmp_path)
    assert_same_run(reference, tmp_path)


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD"])
def test_every_optimizer_can_be_resumed(optimizer: str, tmp_path: Path) -> None:
    chosen = [f"model.optimizer._target_=torch.optim.{optimizer}"]
    chosen += ["~model.optimizer.betas"] if optimizer in ("RMSprop", "SGD") else []
    for length in (32, 64):
        options = [*tiny("vae", "metrics=none"), *chosen, f"run_dir={tmp_path}", f"max_images={length}", "resume=last"]
        launcher.start(config_of(*options), options)
        assert (tmp_path / "checkpoints" / "images_000000032.safetensors").is_file()
    rows = [row["images_seen"] for row in curves(tmp_path)]
    assert rows == sorted(set(rows), key=int)
    assert read_file(tmp_path / "checkpoints" / "last.safetensors")["images_seen"] == 64


def test_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    pause = ["+callbacks.pause._target_=tests.helpers.killed_runs.Pause", f"+callbacks.pause.folder={tmp_path}"]
    (rank,) = start(config_of_a_run("vae", tmp_path, *pause, "+callbacks.pause.at=64"))
    wait_for_file(tmp_path / "paused")
    for _ in range(2):
        os.kill(rank.pid or 0, signal.SIGINT)
        time.sleep(0.5)
    assert finish([rank], timeout=10) == [128 + signal.SIGINT]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_before_the_first_step_ends_the_run_by_its_number(number: int, tmp_path: Path) -> None:
    pause = ["+callbacks.pause._target_=tests.helpers.killed_runs.PausedSetup", f"+callbacks.pause.folder={tmp_path}"]
    (rank,) = start(config_of_a_run("vae", tmp_path, *pause))
    wait_for_file(tmp_path / "paused")
    os.kill(rank.pid or 0, number)
    assert finish([rank], timeout=20) == [128 + number], words(tmp_path)


@pytest.mark.parametrize(("at", "valid"), [(80, 48), (368, 336)])
def test_where_a_number_of_one_process_breaks_no_checkpoint_is_written_past_it(
    at: int, valid: int, tmp_path: Path
) -> None:
    """Processes hear of each other a step later: here that step is after a checkpoint, and after the end."""
    broken = ["+callbacks.broken._target_=tests.helpers.killed_runs.BrokenImages", f"+callbacks.broken.at={at}"]
    config = config_of_a_run("gan", tmp_path, "trainer.devices=2", *broken)
    assert finish(start(config)) == [2, 2], words(tmp_path)
    assert (
        f"after {at + 16} images; the last valid checkpoint is {tmp_path}/checkpoints/images_{valid:09d}.safetensors"
        in (words(tmp_path))
    )
    assert read_checkpoint(tmp_path / "checkpoints" / "last.safetensors")["images_seen"] == valid


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    damage: Callable[[Path], None], straight: Straight, tmp_path: Path
) -> None:
    reference, _ = straight("vae", 1)
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    damage(run / "checkpoints" / NEWEST)
    assert finish(start(config_of_a_run("vae", run))) == [0], words(run)
    assert f"skipped: can't read the checkpoint {run}/checkpoints/{NEWEST}: it is " in words(run)
    assert_same_run(reference, run)


def test_killed_between_the_last_checkpoint_and_its_other_names_a_run_is_whole(
    straight: Straight, tmp_path: Path
) -> None:
    """There is nothing left to train, and last.safetensors and best.safetensors are still the one before."""
    reference, _ = straight("gan", 1)
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    for name in ("last.safetensors", "best.safetensors"):
        shutil.copyfile(run / "checkpoints" / ONE_BEFORE, run / "checkpoints" / name)
    assert finish(start(config_of_a_run("gan", run))) == [0], words(run)
    assert_same_run(reference, run)


def test_where_no_checkpoint_is_valid_nothing_begins_anew(straight: Straight, tmp_path: Path) -> None:
    shutil.copytree(straight("vae", 1)[0], tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*.safetensors"):
        flip_a_bit(path)
    with pytest.raises(UserError, match=r"no checkpoint in .* is valid"):
        latest_valid_checkpoint(tmp_path / "run")
    assert latest_valid_checkpoint(tmp_path) is None


def test_full_disk_stops_in_a_sentence_and_leaves_the_last_valid_checkpoint(straight: Straight, tmp_path: Path) -> None:
    reference, _ = straight("vae", 1)
    full = ["+callbacks.full._target_=tests.helpers.killed_runs.FullDisk", "+callbacks.full.at=80"]
    assert finish(start(config_of_a_run("vae", tmp_path, *full))) == [2]
    folder = tmp_path / "checkpoints"
    assert f"error: can't write the checkpoint {folder}/images_000000096.safetensors (" in words(tmp_path)
    assert f"File too large; the last valid checkpoint is {folder}/images_000000048.safetensors" in words(tmp_path)
    assert not list(folder.glob("*.part"))
    assert finish(start(config_of_a_run("vae", tmp_path))) == [0], words(tmp_path)
    assert_same_run(reference, tmp_path)


def test_resumed_in_another_folder_a_run_takes_its_history_along(straight: Straight, tmp_path: Path) -> None:
    reference, _ = straight("gan", 1)
    run = tmp_path / "run"
    checkpoint = str(reference / "checkpoints" / ONE_BEFORE)
    assert finish(start(config_of_a_run("gan", run), checkpoint)) == [0], words(run)
    assert_same_run(reference, run)
    ours, before = (json.loads((folder / "summary.json").read_text()) for folder in (run, reference))
    assert (
        ours["wall_time_seconds"]
        > read_file(reference / "checkpoints" / ONE_BEFORE)["callbacks"]["Checkpoints"]["wall_seconds"]
    )
    assert ours["best"]["images_seen"] == before["best"]["images_seen"]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_while_gradients_are_accumulated_it_goes_on_as_if_never_stopped(
    processes: int, straight: Straight, tmp_path: Path
) -> None:
    """It is killed after a checkpoint of 5 batches, of which 3 make a step."""
    accumulate = ["+trainer.accumulate_grad_batches=3", f"trainer.devices={processes}"]
    accumulate += ["callbacks.checkpoints.every_images=80"]
    reference, run = tmp_path / "straight", tmp_path / "run"
    assert finish(start(config_of_a_run("vae", reference, *accumulate))) == [0] * processes, words(reference)
    pause = ["+callbacks.pause._target_=tests.helpers.killed_runs.Pause", f"+callbacks.pause.folder={run}"]
    ranks = start(config_of_a_run("vae", run, *accumulate, *pause, "+callbacks.pause.at=96"))
    wait_for_file(run / "paused")
    kill(ranks)
    (run / "released").touch()
    finish(ranks)
    assert finish(start(config_of_a_run("vae", run, *accumulate))) == [0] * processes, words(run)
    assert_same_run(reference, run)
