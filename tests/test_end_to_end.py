"""Training, sampling and evaluating as users do, in processes of their own where that is what is promised."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from src.core.errors import UserError
from src.evaluate import evaluate
from src.models.checkpoint.format import read_file
from src.sample import sample
from src.training.fit import fit
from src.training.launcher import start
from src.training.resume import resumed_config
from tests.helpers.commands import command, config_of, succeeded, tiny
from tests.helpers.tiny import assert_same


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def checkpoint_of(run: Path) -> dict[str, Any]:
    return read_file(run / "checkpoints" / "last.safetensors")


def train_here(folder: Path, *overrides: str) -> Path:
    """Do in this process what src.train does."""
    folder.mkdir(parents=True)
    fit(
        config_of(
            *overrides,
            f"run_dir={folder}",
            "metrics=none",
            "+callbacks.probe._target_=tests.helpers.probe.Probe",
            f"+callbacks.probe.folder={folder}",
        )
    )
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"cache_dir={tmp_path_factory.mktemp('cache')}"


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory: pytest.TempPathFactory, cache: str) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "vae"
    succeeded("src.train", *tiny("vae"), f"run_dir={folder}", f"callbacks.evaluation.{cache}")
    return folder


@pytest.fixture(scope="module")
def lone_checkpoint(vae_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint file away from its run folder."""
    return Path(
        shutil.copy(vae_run / "checkpoints" / "best.safetensors", tmp_path_factory.mktemp("lone") / "model.safetensors")
    )


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "gan"
    probe = ["+callbacks.probe._target_=tests.helpers.probe.Probe", f"+callbacks.probe.folder={folder}"]
    succeeded("src.train", *tiny("gan"), "trainer.devices=2", "metrics=none", f"run_dir={folder}", *probe)
    return folder


def test_run_folder_holds_what_was_promised(vae_run: Path) -> None:
    files = {str(path.relative_to(vae_run)) for path in vae_run.rglob("*") if path.is_file()}
    assert {
        "checkpoints/last.safetensors",
        "checkpoints/best.safetensors",
        "metrics.csv",
        "summary.json",
        "config.yaml",
    } <= files
    images = {f"images/{kind}_{seen:09d}.png" for kind in ("samples", "reconstructions") for seen in (0, 128, 256)}
    images |= {f"images/samples_mixture_{seen:09d}.png" for seen in (128, 256)}  # fitted at evaluations
    assert images == {name for name in files if name.endswith(".png")}
    assert yaml.safe_load((vae_run / "config.yaml").read_text())["max_images"] == 250
    assert not (vae_run / ".hydra").exists()


def test_summary_tells_what_the_run_came_to(vae_run: Path) -> None:
    summary = load(vae_run / "summary.json")
    assert summary["images_seen"] == 256  # 250, rounded up to a batch of 16
    assert summary["images_per_second"] > 0
    assert summary["wall_time_seconds"] > 0
    assert summary["processor_seconds"] > 1  # the imports alone take more
    assert {"fd_lite0", "val/loss", "train/loss"} <= summary["final"].keys()
    assert summary["best"]["fd_lite0_mixture"] <= summary["final"]["fd_lite0_mixture"]
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0]


def test_curves_are_over_the_images_seen(vae_run: Path) -> None:
    rows = list(csv.DictReader((vae_run / "metrics.csv").open()))
    assert [int(row["images_seen"]) for row in rows] == list(range(32, 257, 32))
    assert [row["images_seen"] for row in rows if row["fd_lite0"]] == ["128", "256"]


def test_samples_need_only_the_checkpoint(lone_checkpoint: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    options = [f"checkpoint={lone_checkpoint}", "num_images=10", "seed=3", "prior=mixture"]
    succeeded("src.sample", *options, "output=one", cwd=tmp_path)
    sample(str(lone_checkpoint), 10, 3, str(other), prior="mixture", temperature=1.0, device="cpu")
    names = [f"{index:05d}.png" for index in range(10)]
    assert sorted(path.name for path in one.iterdir()) == names
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
    assert Image.open(one / "00000.png").size == (32, 32)


def test_film_goes_through_the_samples_and_back_to_the_first(lone_checkpoint: Path, tmp_path: Path) -> None:
    options = [f"checkpoint={lone_checkpoint}", "num_images=3", "film=mp4", "frames=4", "scale=nearest", "device=cpu"]
    sample(**config_of(*options, f"output={tmp_path}/cats", name="sample"))
    with av.open(str(tmp_path / "cats.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(512, 512, 3)] * 12
    for index, frame in enumerate(frames[::4]):
        still = np.asarray(Image.open(tmp_path / "cats" / f"{index:05d}.png").resize((512, 512), 0), float)
        assert np.abs(frame - still).mean() < 8


def test_samples_of_a_run_folder_are_those_of_its_best_checkpoint(
    vae_run: Path, lone_checkpoint: Path, tmp_path: Path
) -> None:
    """Files of an earlier, longer call are deleted; files that it did not write stay."""
    folder = tmp_path / "cats"
    folder.mkdir()
    kept = ["1.png", "0000001.png", "cat.png", "00000.jpg"]
    for name in ["00003.png", "00099.png", "100000.png", *kept]:
        (folder / name).touch()
    sample(str(vae_run), 3, 0, str(folder), prior="normal", temperature=1.0, device="cpu")
    sample(str(lone_checkpoint), 3, 0, str(tmp_path / "other"), prior="normal", temperature=1.0, device="cpu")
    drawn = ["00000.png", "00001.png", "00002.png"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(drawn + kept)
    assert all((folder / name).read_bytes() == (tmp_path / "other" / name).read_bytes() for name in drawn)


@pytest.mark.slow
def test_evaluation_needs_only_the_checkpoint(lone_checkpoint: Path, vae_run: Path, cache: str, tmp_path: Path) -> None:
    options = [f"checkpoint={lone_checkpoint}", "num_images=32", "importance_samples=100", "fresh_cats=64", cache]
    succeeded("src.evaluate", *options, f"output={tmp_path}/one", cwd=tmp_path)
    one = load(tmp_path / "one" / "metrics.json")
    assert one["own_data"]
    assert one["num_reference_images"] == 61  # 64 without the twentieth part held out
    judged = {"fd_lite0_mixture", "fd_lite0_reconstruction", "psnr", "ssim", "mmd", "active_units"}
    judged |= {"bound/importance_weighted_bits_per_dim", "kl_nats_of_dimensions", "mig", "dci_completeness"}
    assert judged <= one.keys()
    assert one["bound/importance_weighted_bits_per_dim"] <= one["bound/elbo_bits_per_dim"]
    # The best checkpoint's own evaluation drew the same samples from the same seed.
    assert one["fd_lite0"] == pytest.approx(load(vae_run / "summary.json")["best"]["fd_lite0"], rel=1e-4)


def test_evaluation_takes_other_images(lone_checkpoint: Path, cache: str, tmp_path: Path) -> None:
    sample(str(lone_checkpoint), 16, 0, str(tmp_path / "cats"), prior="normal", temperature=1.0, device="cpu")
    options = [f"checkpoint={lone_checkpoint}", f"data.root={tmp_path}/cats", "num_images=16"]
    evaluate(**config_of(*options, cache, name="evaluate"))
    report = load(lone_checkpoint.parent / "metrics.json")
    assert not report["own_data"]
    assert report["num_reference_images"] == 16
    assert report["fd_lite0"] == pytest.approx(0, abs=1e-2)  # its own samples


def test_two_processes_share_weights_but_not_noise(two_ranks: Path) -> None:
    first, second = load(two_ranks / "rank0.json"), load(two_ranks / "rank1.json")
    assert first["weights"] == second["weights"]
    assert len(set(first["noise"] + second["noise"])) == 2 * 16


def test_two_processes_make_one_run(two_ranks: Path) -> None:
    summary = load(two_ranks / "summary.json")
    assert (summary["images_seen"], summary["ranks"]) == (256, 2)
    seen = [int(row["images_seen"]) for row in csv.DictReader((two_ranks / "metrics.csv").open())]
    assert seen == sorted(set(seen))
    assert len(list(two_ranks.parent.rglob("summary.json"))) == 1


@pytest.mark.parametrize("model", ["vae", "gan"])
def test_resumed_run_equals_unbroken_run_bit_for_bit(model: str, tmp_path: Path) -> None:
    straight = train_here(tmp_path / "straight", *tiny(model))
    half = train_here(tmp_path / "half", *tiny(model, "max_images=128"))
    resume = f"resume={half}/checkpoints/last.safetensors"
    resumed = train_here(tmp_path / "resumed", *tiny(model), resume)
    one, other = checkpoint_of(straight), checkpoint_of(resumed)
    for part in ("state_dict", "optimizer_states", "images_seen"):
        assert_same(one[part], other[part], part)
    assert load(straight / "rank0.json")["noise"][8:] == load(resumed / "rank0.json")["noise"]


def test_resumed_run_keeps_its_noise_whatever_seed_is_the_default_today(tmp_path: Path) -> None:
    straight = train_here(tmp_path / "straight", *tiny("gan", "seed=5", "max_images=128"))
    half = train_here(tmp_path / "half", *tiny("gan", "seed=5", "max_images=64"))
    today = config_of(*tiny("gan", "max_images=128"), f"run_dir={tmp_path}/resumed", "metrics=none")
    today["resume"] = str(half / "checkpoints" / "last.safetensors")
    fit(resumed_config(today, typed=["max_images=128"]))
    one, other = checkpoint_of(straight), checkpoint_of(tmp_path / "resumed")
    assert_same(one["state_dict"], other["state_dict"], "state_dict")


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
@pytest.mark.parametrize("model", [["vae"], ["gan"], ["gan", "model/adversarial_loss=wasserstein"]], ids=" ".join)
def test_every_precision_trains_on_the_cpu(model: list[str], precision: str, tmp_path: Path) -> None:
    run = train_here(tmp_path / "run", *tiny(*model, f"trainer.precision={precision}", "max_images=64"))
    state = checkpoint_of(run)["state_dict"]
    expected = torch.float64 if precision == "64-true" else torch.float32
    assert all(
        value.isfinite().all() and value.dtype == expected for value in state.values() if value.is_floating_point()
    )


@pytest.mark.slow
def test_resumed_run_keeps_its_recipe(vae_run: Path, tmp_path: Path) -> None:
    checkpoint = f"resume={vae_run}/checkpoints/last.safetensors"
    folder = [f"run_dir={tmp_path}", "metrics=none", "trainer=cpu"]
    result = command("src.train", checkpoint, "model=vae", "model.beta=7", *folder)
    assert result.returncode == 2
    assert "model.beta would change" in result.stderr.replace("model.encoder.image_size, ", "")
    result = command("src.train", checkpoint, "model=gan", *folder)
    assert result.returncode == 2
    assert "but model (GAN instead of VAE) would change; leave it out" in result.stderr
    succeeded("src.train", checkpoint, "max_images=272", *folder)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    stored = yaml.safe_load((vae_run / "config.yaml").read_text())
    assert all(config[part] == stored[part] for part in ("model", "data", "seed"))
    # The best so far came along, file and figures.
    best = read_file(tmp_path / "checkpoints" / "best.safetensors")
    assert load(tmp_path / "summary.json")["best"]["images_seen"] == best["images_seen"]


def test_autoencoder_trains_too(tmp_path: Path) -> None:
    run = train_here(tmp_path / "run", *tiny("autoencoder", "max_images=32"))
    assert load(run / "summary.json")["images_seen"] == 32


@pytest.mark.slow
def test_training_on_two_processes_goes_on_where_it_stopped(two_ranks: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(two_ranks, run)
    options = ["resume=last", "max_images=288", f"run_dir={run}", "trainer.devices=2", "metrics=none"]
    printed = succeeded("src.train", *tiny("gan"), *options)
    assert f"resume=last: {run}/checkpoints/images_000000256.safetensors" in printed
    assert load(run / "summary.json")["images_seen"] == 288


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["run_dir={run}"], "run_dir={run} holds a run; add resume=last to go on with it, or give another folder"),
        (["resume=last"], "resume=last goes on in the folder of a run; add run_dir=RUN"),
    ],
)
def test_runs_are_not_mixed_up(options: list[str], sentence: str, vae_run: Path) -> None:
    result = command("src.train", *tiny("vae"), *[option.format(run=vae_run) for option in options])
    assert (result.returncode, result.stderr) == (2, f"error: {sentence.format(run=vae_run)}\n")


def test_resuming_past_the_end_is_refused_in_a_sentence(vae_run: Path, tmp_path: Path) -> None:
    resume = f"resume={vae_run}/checkpoints/last.safetensors"
    with pytest.raises(UserError, match="has seen 256 images already"):
        start(config_of(*tiny("vae"), resume, f"run_dir={tmp_path}"), [])
