"""metrics.csv: one row for all that is logged at the same images seen, new columns as they come."""

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from src.core.files import write_atomic
from src.core.run_folder import METRICS, read_rows, rows_text


class CSVLogger(Logger):
    """Keeps <save_dir>/metrics.csv up to date after every call, so that a killed run has its curves.

    A resumed run in the same folder continues its file. (Lightning's own logger deletes it and writes late.)
    """

    name, version, save_dir = "csv", "", ""

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.save_dir, self.path = save_dir, Path(save_dir) / METRICS
        self.columns: list[str] = []
        # The last row, and where it begins in the file.
        self.row: dict[str, Any] = {}
        self.offset = 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the resolved config lies beside the file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write the row at metrics["images_seen"]; only a new column costs more than the row."""
        images_seen = int(metrics["images_seen"])
        is_new_row = images_seen != self.row.get("images_seen")
        self.row = {**({} if is_new_row else self.row), **metrics, "images_seen": images_seen}
        if not metrics.keys() <= set(self.columns):
            columns, rows = read_rows(self.path)
            self.columns = list(dict.fromkeys([*columns, *metrics]))
            # Later rows of a run that was killed are logged again.
            earlier = [row for row in rows if int(row["images_seen"]) < images_seen]
            write_atomic(self.path, rows_text(self.columns, earlier))
            is_new_row = True
        if is_new_row:
            self.offset = self.path.stat().st_size
        with self.path.open("r+", newline="") as file:
            file.seek(self.offset)
            file.write(rows_text(self.columns, [self.row], header=False))
            file.truncate()
