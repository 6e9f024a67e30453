"""metrics.csv: one row a report, new columns as they come."""

import csv
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class CSVLogger(Logger):
    """Keeps <save_dir>/metrics.csv up to date after every report, so that a killed run has its curves.

    Reports at the same images seen share a row. A resumed run in the same folder goes on in its file. (Lightning's own
    logger deletes it and writes late.)
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._path = Path(save_dir) / "metrics.csv"
        self._rows: dict[int, dict[str, Any]] = {}
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved config lies beside the file already."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        images_seen = int(metrics["images_seen"])
        is_first = not self._rows
        if is_first:
            self._read_rows_before(images_seen)
        new_columns = [name for name in metrics if name not in self._columns]
        # Only the last row may grow in place; what is on disk stays as it is otherwise.
        same_row = images_seen in self._rows
        self._rows.setdefault(images_seen, {}).update(metrics)
        self._columns += new_columns
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if is_first or new_columns or same_row:
            self._write(list(self._rows.values()), "w")
        else:
            self._write([self._rows[images_seen]], "a")

    def _read_rows_before(self, images_seen: int) -> None:
        """What an earlier part of the run has reported; beyond its checkpoint it is reported anew."""
        if self._path.exists():
            with self._path.open(newline="") as file:
                reader = csv.DictReader(file)
                rows = {int(row["images_seen"]): row for row in reader}
                self._columns = list(reader.fieldnames or [])
            self._rows = {seen: row for seen, row in rows.items() if seen < images_seen}

    def _write(self, rows: list[dict[str, Any]], mode: str) -> None:
        # A file that is written anew is written aside: killed meanwhile, the run still has its curves.
        path = self._path.with_name("metrics.csv.part") if mode == "w" else self._path
        with path.open(mode, newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)
        if mode == "w":
            os.replace(path, self._path)
