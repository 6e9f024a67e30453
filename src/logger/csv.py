"""metrics.csv: one row for all that is logged at the same images seen, new columns as they come."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from src.core.files import write_atomic


class CSVLogger(Logger):
    """Keeps <save_dir>/metrics.csv up to date after every call, so that a killed run has its curves.

    A resumed run in the same folder continues its file. (Lightning's own logger deletes it and writes late.)
    """

    name, version = "csv", ""

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._path = Path(save_dir) / "metrics.csv"
        self._columns: list[str] = []
        # The last row, and where it begins in the file.
        self._row: dict[str, Any] = {}
        self._offset = 0

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self._path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the resolved config lies beside the file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write the row at metrics["images_seen"]; only a new column costs more than the row."""
        images_seen = int(metrics["images_seen"])
        if not metrics.keys() <= set(self._columns):
            self._add_columns(list(metrics), images_seen)
        elif images_seen != self._row["images_seen"]:
            self._offset = self._path.stat().st_size
        if images_seen != self._row.get("images_seen"):
            self._row = {}
        self._row |= {**metrics, "images_seen": images_seen}
        with self._path.open("r+", newline="") as file:
            file.seek(self._offset)
            csv.DictWriter(file, self._columns).writerow(self._row)
            file.truncate()

    def _add_columns(self, names: list[str], images_seen: int) -> None:
        """Rewrite the file with more columns and the rows before the images seen; later ones are logged again."""
        rows: list[dict[str, str]] = []
        if self._path.exists():
            with self._path.open(newline="") as file:
                reader = csv.DictReader(file)
                rows = [row for row in reader if int(row["images_seen"]) < images_seen]
                self._columns = list(reader.fieldnames or [])
        self._columns += [name for name in names if name not in self._columns]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self._path, text.getvalue())
        self._offset = self._path.stat().st_size
