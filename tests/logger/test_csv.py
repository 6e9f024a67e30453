import csv
import statistics
import time
from pathlib import Path

import pytest

from src.callbacks.training_scalars import TrainingScalars
from src.logger.csv import CSVLogger
from tests.helpers.tiny import ScriptedModel, tiny_data, train


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def log(logger: CSVLogger, images_seen: int, **values: float) -> None:
    logger.log_metrics({"images_seen": images_seen, **values}, step=images_seen)


def test_file_is_whole_after_every_row(tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path / "run"))
    for count in range(1, 4):
        log(logger, 64 * count, loss=count / 2)
        assert [row["loss"] for row in rows(tmp_path / "run")] == ["0.5", "1.0", "1.5"][:count]


def test_values_at_the_same_images_seen_share_a_row(tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path))
    log(logger, 64, loss=1.0)
    log(logger, 64, fd=3.0)
    assert rows(tmp_path) == [{"images_seen": "64", "loss": "1.0", "fd": "3.0"}]


def test_columns_come_as_they_are_logged(tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path))
    log(logger, 64, loss=1.0)
    log(logger, 128, loss=0.5, fd=3.0)
    log(logger, 192, fd=2.0)
    assert rows(tmp_path) == [
        {"images_seen": "64", "loss": "1.0", "fd": ""},
        {"images_seen": "128", "loss": "0.5", "fd": "3.0"},
        {"images_seen": "192", "loss": "", "fd": "2.0"},
    ]


def test_resumed_run_continues_its_file(tmp_path: Path) -> None:
    """It was killed at 192 images and resumes from its checkpoint at 128."""
    before, after = CSVLogger(str(tmp_path)), CSVLogger(str(tmp_path))
    for count in range(1, 4):
        log(before, 64 * count, loss=1.0)
    log(after, 192, loss=2.0, fd=5.0)
    log(after, 256, loss=2.0)
    assert [(row["images_seen"], row["loss"], row["fd"]) for row in rows(tmp_path)] == [
        ("64", "1.0", ""),
        ("128", "1.0", ""),
        ("192", "2.0", "5.0"),
        ("256", "2.0", ""),
    ]


def test_only_a_new_column_rewrites_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = CSVLogger(str(tmp_path))
    log(logger, 64, loss=1.0)
    monkeypatch.delattr("src.logger.csv.write_atomic")
    log(logger, 128, loss=0.123456789)
    log(logger, 128, loss=0.5)  # shorter than what it replaces
    log(logger, 192, loss=0.25)
    assert [row["loss"] for row in rows(tmp_path)] == ["1.0", "0.5", "0.25"]
    with pytest.raises(NameError, match="write_atomic"):
        log(logger, 192, fd=3.0)


def test_a_row_costs_the_same_whether_it_is_the_tenth_or_the_four_thousandth(tmp_path: Path) -> None:
    logger, seconds = CSVLogger(str(tmp_path)), []
    for count in range(1, 4001):
        started_at = time.perf_counter()
        log(logger, 64 * count, **{f"loss_{index}": count / 3 for index in range(30)})
        log(logger, 64 * count, loss_0=1.0)  # a second report of the same images seen
        seconds.append(time.perf_counter() - started_at)
    assert statistics.median(seconds[-200:]) < 5 * statistics.median(seconds[5:205])
    assert len(rows(tmp_path)) == 4000


def test_training_writes_its_curves(tmp_path: Path) -> None:
    train(ScriptedModel(), tiny_data(batch_size=4), 12, [TrainingScalars(4)], [CSVLogger(str(tmp_path))])
    written = [(row["images_seen"], row["train/loss"]) for row in rows(tmp_path)]
    assert written == [("4", "0.0"), ("8", "4.0"), ("12", "8.0")]
