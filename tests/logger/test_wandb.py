import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from src.callbacks.image_grids import ImageGrids
from src.callbacks.training_scalars import TrainingScalars
from src.core.errors import UserError
from src.logger.wandb import WandbLogger, choose_mode
from src.training.fit import fit
from tests.helpers.commands import config_of
from tests.helpers.tiny import ScriptedModel, tiny_data, train

CONF = Path(__file__).parents[2] / "conf"
BLOCK, HEADER = 32768, 7


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def records(folder: Path) -> list[Record]:
    """All that the only run below a folder has kept. A process of W&B's own writes the end a little later."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
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
    summaries = [update for record in kept for update in record.summary.update]
    assert ["best/fd"] in [list(update.nested_key) or [update.key] for update in summaries]
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


def test_resumed_run_is_the_same_one_without_gap_or_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was killed after 32 images, went on from its checkpoint of 16, was killed before 32, and goes on again."""
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
    seen = [row["images_seen"] for row in history(kept) if "train/loss" in row]
    assert seen == [8, 16, 24, 32, 40, 48]


def test_run_of_a_checkpoint_is_an_id_and_no_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which is no id: refused"):
        WandbLogger(str(tmp_path / "run"), project="cats").resume("a/../../../outside", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_of_a_row_that_was_sent_in_part_the_rest_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was killed during the evaluation."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    killed = WandbLogger(str(tmp_path / "0"), project="cats")
    killed.log_metrics({"images_seen": 16, "train/loss": 0.5})
    run_id = killed.version
    killed.finish(1)
    goes_on = WandbLogger(str(tmp_path / "1"), project="cats")
    goes_on.resume(run_id, tmp_path / "0")
    for row in ({"train/loss": 0.5}, {"fid": 3.0}):
        goes_on.log_metrics({"images_seen": 16, **row})
    goes_on.finish(0)
    assert [row.get("fid") for row in history(records(tmp_path / "1"))] == [3.0]
