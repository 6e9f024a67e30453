"""A run folder: the names of its files, its checkpoints and its config. Needs no torch."""

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from src.core.errors import UserError

CHECKPOINTS, CONFIG, METRICS, SUMMARY, IMAGES = "checkpoints", "config.yaml", "metrics.csv", "summary.json", "images"
ERROR = "error.txt"  # why the run failed, in one sentence
LAST, BEST = "last.safetensors", "best.safetensors"


def checkpoint_name(images_seen: int) -> str:
    """Return the file name of the checkpoint after so many images."""
    return f"images_{images_seen:09d}.safetensors"


def numbered_checkpoints(folder: Path) -> dict[int, Path]:
    """Return the numbered files of a checkpoints folder by their images seen, oldest first."""
    found = {path: re.fullmatch(r"images_(\d+)\.safetensors", path.name) for path in folder.glob("images_*")}
    return dict(sorted((int(match[1]), path) for path, match in found.items() if match))


def has_checkpoints(run_dir: Path) -> bool:
    """Tell whether a folder holds a run that can be resumed."""
    return any((run_dir / CHECKPOINTS).glob("*.safetensors"))


def run_dir_of(checkpoint: Path) -> Path | None:
    """Return the run folder that a checkpoint lies in, None for a file that lies elsewhere."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == CHECKPOINTS else None


def resolve_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that a path means: the file itself, or a run folder's best one, else its last one.

    Raises UserError for a path that does not exist, a folder that is no run folder, and a run without checkpoints.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"can't read the checkpoint {path}: there is no such file or run folder")
    folder = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    for file in (folder / BEST, folder / LAST, *reversed(numbered_checkpoints(folder).values())):
        if file.is_file():
            return file
    if folder.is_dir() or (path / CONFIG).is_file():
        raise UserError(f"the run {path} has no checkpoint yet; wait for its first one, or give another run folder")
    what = "is no run folder" if any(path.iterdir()) else "is an empty folder"
    raise UserError(f"{path} {what}: give a run folder (it has {CHECKPOINTS}/), or a file of its {CHECKPOINTS}/")


def read_config(run_dir: Path | None) -> dict[str, Any]:
    """Return a run's resolved config as config.yaml has it, empty where there is none that can be read."""
    try:
        config = yaml.safe_load((run_dir / CONFIG).read_text()) if run_dir else None
    except (OSError, ValueError, yaml.YAMLError):
        config = None
    return config if isinstance(config, dict) else {}


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and rows of a file of curves, without a last line that has no end."""
    if not path.exists():
        return [], []
    with path.open(newline="") as file:
        text = file.read()
    reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    rows = list(reader)
    return list(reader.fieldnames or []), rows


def rows_text(columns: list[str], rows: Iterable[dict[str, Any]], header: bool = True) -> str:
    """Return rows as the text of a file of curves, or of a part to be appended to one."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
