import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import numpy as np
import pytest
from lightning import Callback
from omegaconf import OmegaConf
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from src.callbacks.checkpoints import Checkpoints
from src.callbacks.image_grids import ImageGrids
from src.callbacks.periodic import log_metrics
from src.callbacks.training_scalars import TrainingScalars
from src.core.errors import UserError
from src.core.run_folder import resolve_checkpoint
from src.evaluation.evaluator import Evaluator
from src.export import export
from src.logger.wandb import WandbLogger, choose_mode, continue_run
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import FrechetDistance
from src.models.checkpoint.format import to_bytes
from src.models.checkpoint.loading import read_checkpoint
from src.reports.evaluation import log_evaluation, write_evaluation
from src.training.fit import fit
from tests.helpers.commands import config_of
from tests.helpers.feature_networks import PatchMeans
from tests.helpers.tiny import ScriptedModel, tiny_data, train

CONF, PRETRAINED = (Path(__file__).parents[2] / name for name in ("conf", "pretrained/drawn_cats"))
BLOCK, HEADER = 32768, 7


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def records(folder: Path, part: int = 0) -> list[Record]:
    """All that a part of the run below a folder has kept. A process of W&B's own writes the end a little later."""
    path = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_ctime_ns)[part]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        kept = [Record.FromString(message) for message in messages(path.read_bytes())]
        if exit_codes(kept):
            return kept
        time.sleep(0.05)
    raise AssertionError(f"the run in {folder} has no end")


def messages(log: bytes) -> Iterator[bytes]:
    """W&B's file: a header, then LevelDB's log format, whose records are cut at blocks of 32 KiB."""
    position, message = HEADER, b""
    while position + HEADER <= len(log):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        length, kind = int.from_bytes(log[position + 4 : position + 6], "little"), log[position + 6]
        if position + HEADER + length > len(log):
            return  # still being written
        message += log[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield message
            message = b""


def history(kept: list[Record]) -> list[dict[str, Any]]:
    """Rows as they were logged; nested names joined by dots."""
    rows = [record.history.item for record in kept if record.WhichOneof("record_type") == "history"]
    return [{".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row} for row in rows]


def summary(kept: list[Record]) -> dict[str, Any]:
    """The values of the run's row in W&B's tables; nested names joined by dots."""
    updates = [update for record in kept for update in record.summary.update]
    return {".".join(update.nested_key) or update.key: json.loads(update.value_json) for update in updates}


def artifacts(kept: list[Record]) -> list[Any]:
    return [record.artifact for record in kept if record.artifact.type == "model"]


def exit_codes(kept: list[Record]) -> list[int]:
    return [record.exit.exit_code for record in kept if record.WhichOneof("record_type") == "exit"]


def test_without_login_runs_are_offline_and_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setattr("getpass.getpass", asked)
    assert choose_mode() == "offline"


@pytest.mark.parametrize("mode", ["offline", "disabled", "online"])
def test_the_users_mode_is_obeyed(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert choose_mode() == mode


def test_run_keeps_config_scalars_and_images_against_images_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(str(tmp_path), project="cats", name="first", tags=["tiny"])
    logger.log_hyperparams({"model": {"latent_dim": 3}})
    callbacks = [TrainingScalars(4), ImageGrids(folder=str(tmp_path / "images"), every_images=1000, num_images=1)]
    train(ScriptedModel(), tiny_data(batch_size=4), 12, callbacks, [logger])
    logger.log_summary({"best/fd": 2.5})
    logger.finish(0)
    kept = records(tmp_path)

    rows = history(kept)
    losses = [(row["images_seen"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses == [(4, 0.0), (8, 4.0), (12, 8.0)]
    images = [(row["images_seen"], row["samples.filenames"]) for row in rows if "samples.filenames" in row]
    assert [images_seen for images_seen, _ in images] == [0, 12]
    (folder,) = tmp_path.glob("wandb/offline-run-*/files")
    theirs, ours = folder / images[-1][1][0], tmp_path / "images" / "samples_000000012.png"
    assert np.array_equal(np.array(Image.open(theirs)), np.array(Image.open(ours)))

    updates = [update for record in kept for update in record.config.update]
    assert {"latent_dim": 3} in [json.loads(update.value_json) for update in updates if update.key == "model"]
    metrics = {record.metric.glob_name: record.metric.step_metric for record in kept if record.HasField("metric")}
    assert metrics["*"] == "images_seen"
    row = summary(kept)
    assert row["best/fd"] == 2.5
    assert row["train/loss"] == {"min": 0, "max": 8, "last": 8}
    assert row["samples.filenames"] == images[-1][1]
    (run,) = (record.run for record in kept if record.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name, list(run.tags)) == ("cats", "first", ["tiny"])
    assert exit_codes(kept) == [0]


def test_run_is_finished_where_training_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    overrides = [
        "model.encoder.width=8", "data.num_images=16", "data.image_size=32", "data.batch_size=8", "data.val_fraction=0",
        "callbacks.evaluation.reference=val", "max_images=8", "logger=wandb", "trainer=cpu", f"run_dir={tmp_path}",
    ]  # fmt: skip
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config: Any = OmegaConf.to_container(hydra.compose("train", overrides), resolve=True)
    with pytest.raises(UserError, match="no images are held out"):
        fit(config)
    assert exit_codes(records(tmp_path)) == [1]


def test_each_run_is_one_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for job in ("0", "1"):
        logger = WandbLogger(str(tmp_path / job), project="cats")
        logger.log_metrics({"images_seen": 4, "job": float(job)})
        logger.finish(0)
    assert [history(records(tmp_path / job))[0]["job"] for job in ("0", "1")] == [0.0, 1.0]


def test_resumed_run_is_the_same_one_without_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was killed after 32 images, went on from its checkpoint of 16, was killed before 32, and goes on again.

    What came after the checkpoint is sent again, with the same values.
    """
    monkeypatch.setenv("WANDB_MODE", "offline")
    overrides = ["model.encoder.width=8", "data.num_images=40", "data.image_size=32", "data.batch_size=8",
                 "metrics=none", "callbacks.training_scalars.every_images=8", "callbacks.checkpoints.every_images=16",
                 "callbacks.image_grids=null", "logger=wandb", "trainer=cpu"]  # fmt: skip
    runs = (("first", None, 32), ("second", "first/checkpoints/images_000000016.safetensors", 24),
            ("third", "second/checkpoints/last.safetensors", 48))  # fmt: skip
    for folder, resume, max_images in runs:
        config = config_of(*overrides, f"run_dir={tmp_path}/{folder}", f"max_images={max_images}")
        fit(config | {"resume": resume and str(tmp_path / resume)})
    kept = [record for folder, _, _ in runs for record in records(tmp_path / folder)]
    assert len({record.run.run_id for record in kept if record.WhichOneof("record_type") == "run"}) == 1
    losses = [(row["images_seen"], row["train/loss"]) for row in history(kept) if "train/loss" in row]
    assert [images_seen for images_seen, _ in losses] == [8, 16, 24, 32, 24, 32, 40, 48]
    assert losses[2] == losses[4]


def test_run_of_a_checkpoint_is_an_id_and_no_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which is no id: refused"):
        WandbLogger(str(tmp_path / "run"), project="cats").resume("a/../../../outside")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_has_its_best(tmp_path: Path) -> None:
    """W&B writes to the disk some seconds after it was told."""
    code = f"""if True:
        import time
        from src.logger.wandb import WandbLogger
        logger = WandbLogger({str(tmp_path)!r}, project="cats")
        for images_seen, fd in enumerate([5.0, 3.0, 4.0]):
            logger.log_metrics({{"images_seen": images_seen, "fd": fd}})
        time.sleep(600)"""
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=CONF.parent, env=os.environ | {"WANDB_MODE": "offline"})
    try:
        row: dict[str, Any] = {}
        deadline = time.monotonic() + 400
        while row.get("images_seen") != 2 and time.monotonic() < deadline:
            time.sleep(0.5)
            logs = [path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/*.wandb")]
            row = summary([Record.FromString(message) for log in logs for message in messages(log)])
    finally:
        process.kill()
        process.wait()
    assert row["fd"] == {"min": 3, "max": 5, "last": 4}


def test_run_knows_the_commit_of_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CONF, capture_output=True, text=True, check=False)
    if git.returncode:
        pytest.skip("the source is no git repository here")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(CONF.parent)
    logger = WandbLogger(str(tmp_path), "cats", entity="team", group="mine", job_type="train", notes="a note")
    logger.alert("modes collapse", "after 16 images: samples are alike")
    logger.finish(0)
    kept = records(tmp_path)
    (run,) = (record.run for record in kept if record.WhichOneof("record_type") == "run")
    assert run.git.commit == git.stdout.strip()
    assert (run.entity, run.run_group, run.job_type, run.notes) == ("team", "mine", "train", "a note")
    (alert,) = (record.alert for record in kept if record.WhichOneof("record_type") == "alert")
    assert (alert.title, alert.text, alert.level) == (
        "modes collapse", "after 16 images: samples are alike", "WARN",
    )  # fmt: skip


@pytest.mark.parametrize("log_model", ["best", "all", "none"])
def test_checkpoints_are_artifacts_that_commands_take_as_run_folders(
    log_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitored metric is the lowest after 8 of 16 images; then the run is stopped."""

    class Metric(Callback):
        def on_train_batch_end(self, trainer: Any, model: Any, *args: Any) -> None:
            log_metrics(trainer, {"fd": {4: 3.0, 8: 1.0}.get(model.images_seen, 2.0)}, model.images_seen)

    monkeypatch.setenv("WANDB_MODE", "offline")
    run_dir, files = tmp_path / "run", tmp_path / "run" / "checkpoints"
    logger = WandbLogger(str(run_dir), project="cats", log_model=log_model)
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text("max_images: 16\n")
    checkpoints = Checkpoints(folder=str(files), every_images=4, monitor="fd", keep=1)
    train(ScriptedModel(), tiny_data(batch_size=4), 16, [Metric(), checkpoints], [logger])
    logger.finish(75)
    kept = artifacts(records(run_dir))
    aliases = [sorted({*artifact.aliases} - {"latest"}) for artifact in kept]
    numbered = [f"images_{images_seen:09d}" for images_seen in (4, 8, 12, 16)]
    expected = {
        "none": [], "best": [["best"]],
        "all": [["best", numbered[0]], ["best", numbered[1]], [numbered[2]], [numbered[3]]],
    }  # fmt: skip
    assert aliases == expected[log_model]
    if log_model != "none":
        artifact = next(artifact for artifact in reversed(kept) if "best" in artifact.aliases)
        assert json.loads(artifact.metadata) == {"images_seen": 8, "fd": 1.0}
        folder = tmp_path / "downloaded"
        for entry in artifact.manifest.contents:
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(entry.local_path, folder / entry.path)
        assert (folder / "config.yaml").read_text() == "max_images: 16\n"
        assert resolve_checkpoint(folder).read_bytes() == (files / "best.safetensors").read_bytes()


def test_runs_of_a_sweep_and_of_a_study_are_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_RUN_GROUP", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)

    def place(folder: Path, **options: Any) -> tuple[str | None, str | None]:
        chosen = WandbLogger(str(folder), "cats", **options)._wandb_init
        return chosen["group"], chosen["name"]

    job = tmp_path / "10-00-00" / "3"
    job.mkdir(parents=True)
    (job / "job.json").write_text(json.dumps({"sweep": "0123456789abcdef", "job": 3, "options": "model.beta=4"}))
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text("name: study-12ab\n")
    assert place(job) == ("10-00-00-01234567", "3 model.beta=4")
    assert place(job, group="mine", name="first") == ("mine", "first")
    assert place(tmp_path / "study" / "00003") == ("study-12ab", "00003")
    assert place(tmp_path / "study" / "00003" / "seed_1") == ("study-12ab", "00003/seed_1")
    assert place(tmp_path / "alone") == (None, None)
    monkeypatch.setenv("WANDB_RUN_GROUP", "theirs")
    assert place(job)[0] == "theirs"


def test_film_of_a_run_is_a_video_of_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B does not play WebP: it is given a GIF."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    frames = [Image.new("RGB", (32, 32), (60 * index, 0, 0)) for index in range(4)]
    for index, frame in enumerate(frames):
        frame.save(tmp_path / f"samples_{index:09d}.png")
    logger, model = WandbLogger(str(tmp_path), "cats"), ScriptedModel()
    model.images_seen = 16
    trainer: Any = SimpleNamespace(is_global_zero=True, loggers=[logger])
    ImageGrids(folder=str(tmp_path), every_images=8).on_train_end(trainer, model)
    logger.finish(0)
    (row,) = history(records(tmp_path))
    assert (row["growing_up._type"], row["images_seen"]) == ("videos", 16) or row["growing_up._type"] == "video-file"
    (video,) = tmp_path.glob("wandb/offline-run-*/files/media/videos/*.gif")
    with Image.open(video) as sent:
        assert sent.n_frames == 4  # type: ignore[attr-defined]
        for index, frame in enumerate(frames):
            sent.seek(index)
            assert (sent.info["duration"] > 1000) == (index == 3)  # it stays at the last one
            assert np.abs(np.array(sent.convert("RGB"), int) - np.array(frame)).max() <= 4


def test_arguments_of_the_sweep_agent_are_options_of_the_command_line() -> None:
    """W&B's agent puts them in place of ${args_no_hyphens}."""
    values = {"model.beta": 0.5, "seed": 3, "model.optimizer.lr": 1e-05, "data.horizontal_flip": False,
              "model/networks": "resnet_vae", "callbacks.checkpoints.every_minutes": None}  # fmt: skip
    arguments = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    typed = [item.replace("=None", "=null") for item in arguments["args_no_hyphens"]]
    config = config_of("model=vae", *typed)
    assert (config["seed"], config["model"]["optimizer"]["lr"]) == (3, 1e-05)
    assert config["data"]["horizontal_flip"] is False


def test_an_exported_folder_becomes_an_artifact_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_dir, output = tmp_path / "run", tmp_path / "cats"
    content = read_checkpoint(resolve_checkpoint(PRETRAINED)) | {"logger_versions": {"cats": "an-id"}}
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "checkpoints" / "best.safetensors").write_bytes(to_bytes(content))
    (run_dir / "config.yaml").write_text("logger: {wandb: {project: cats, entity: null}}\n")
    export(**config_of(f"checkpoint={run_dir}", f"output={output}", "onnx=false", "wandb=true", name="export"))
    (artifact,) = artifacts(records(run_dir))
    assert artifact.name == "export-an-id"
    assert json.loads(artifact.metadata)["images_seen"] == content["images_seen"]
    contents = {entry.path: Path(entry.local_path).read_bytes() for entry in artifact.manifest.contents}
    assert contents == {path.name: path.read_bytes() for path in output.iterdir()}
    assert set(contents) == {"model.safetensors", "grid.png", "README.md"}


def test_an_evaluation_continues_the_run_with_metrics_and_nearest_neighbors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_dir, data = tmp_path / "run", tiny_data(num_images=30, batch_size=4, val_fraction=0.2)
    data.setup()
    logger = WandbLogger(str(run_dir), project="cats")
    logger.log_metrics({"images_seen": 16, "fd": 9.0})
    run_id = logger.version
    logger.finish(0)
    with pytest.raises(UserError, match="no W&B run to continue"):
        continue_run({"logger_versions": {"cats": run_id}}, run_dir)  # without config.yaml
    (run_dir / "config.yaml").write_text("logger: {csv: {save_dir: x}, wandb: {project: cats, entity: null}}\n")
    with pytest.raises(UserError, match="no W&B run to continue"):
        continue_run({"logger_versions": {"other": run_id}}, run_dir)
    continued = continue_run({"logger_versions": {"cats": run_id}}, run_dir)
    model = ScriptedModel()
    model.images_seen = 16
    metrics = FeatureMetrics(PatchMeans(), {"fd": FrechetDistance()})
    evaluator = Evaluator(model, data, [metrics], num_images=20, cache_dir=str(tmp_path / "cache"))
    results, nearest = write_evaluation(
        evaluator, run_dir, {}, 3, importance_samples=5, max_bound_images=5, fresh_cats=8
    )
    log_evaluation(continued, evaluator, results, nearest)
    kept = records(run_dir, 1)
    assert {record.run.run_id for record in kept if record.WhichOneof("record_type") == "run"} == {run_id}
    (row,) = history(kept)
    assert (row["images_seen"], row["evaluation/train/num_images"]) == (16, 20)
    assert row["evaluation/train/fd"] == pytest.approx(results["fd"])
    (folder,) = [path.parent for path in run_dir.glob("wandb/offline-run-*/files/media")]
    table = json.loads((folder / row["neighbors_patches.path"]).read_text())
    assert table["columns"][:3] == ["sample", "nearest 1", "distance 1"]
    (_, distances) = nearest["patches"]
    columns = [index for index, name in enumerate(table["columns"]) if name.startswith("distance")]
    assert np.allclose([[line[index] for index in columns] for line in table["data"]], distances)
    assert [json.loads((run_dir / "metrics.json").read_text())["images_seen"], len(table["data"])] == [16, 3]
