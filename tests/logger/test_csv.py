import csv
from pathlib import Path

from src.callbacks.training_scalars import TrainingScalars
from src.logger.csv import CSVLogger
from tests.helpers.tiny import ScriptedModel, tiny_data, train


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def report(logger: CSVLogger, images_seen: int, **values: float) -> None:
    logger.log_metrics({"images_seen": images_seen, **values}, step=images_seen)


def test_file_is_whole_after_every_report(tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path / "run"))
    for count in range(1, 4):
        report(logger, 64 * count, loss=count / 2)
        assert [row["loss"] for row in rows(tmp_path / "run")] == ["0.5", "1.0", "1.5"][:count]


def test_reports_at_the_same_images_seen_share_a_row(tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path))
    report(logger, 64, loss=1.0)
    report(logger, 64, fd=3.0)
    assert rows(tmp_path) == [{"images_seen": "64", "loss": "1.0", "fd": "3.0"}]


def test_columns_come_as_they_are_reported(tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path))
    report(logger, 64, loss=1.0)
    report(logger, 128, loss=0.5, fd=3.0)
    report(logger, 192, fd=2.0)
    assert rows(tmp_path) == [
        {"images_seen": "64", "loss": "1.0", "fd": ""},
        {"images_seen": "128", "loss": "0.5", "fd": "3.0"},
        {"images_seen": "192", "loss": "", "fd": "2.0"},
    ]


def test_resumed_run_goes_on_in_its_file(tmp_path: Path) -> None:
    """It was killed at 192 images and resumes from its checkpoint at 128."""
    before, after = CSVLogger(str(tmp_path)), CSVLogger(str(tmp_path))
    for count in range(1, 4):
        report(before, 64 * count, loss=1.0)
    report(after, 192, loss=2.0, fd=5.0)
    report(after, 256, loss=2.0)
    assert [(row["images_seen"], row["loss"], row["fd"]) for row in rows(tmp_path)] == [
        ("64", "1.0", ""),
        ("128", "1.0", ""),
        ("192", "2.0", "5.0"),
        ("256", "2.0", ""),
    ]


def test_training_writes_its_curves(tmp_path: Path) -> None:
    train(ScriptedModel(), tiny_data(batch_size=4), 12, [TrainingScalars(4)], [CSVLogger(str(tmp_path))])
    written = [(row["images_seen"], row["train/loss"]) for row in rows(tmp_path)]
    assert written == [("4", "0.0"), ("8", "4.0"), ("12", "8.0")]
