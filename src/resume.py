"""What a run that goes on finds and takes along: its newest sound checkpoint, curves, pictures, best checkpoint."""

import contextlib
import csv
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, TypeVar

from src.callbacks.checkpoints import all_numbered, link, numbered
from src.checkpoint import read_checkpoint
from src.errors import UserError

HISTORY = "metrics.csv"
T = TypeVar("T")


def newest_sound(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run folder that can be read, or None where there is none at all.

    Those that are damaged are named and passed over. UserError if all are.
    """
    folder = run_dir / "checkpoints"
    files = [*reversed(all_numbered(folder).values()), *sorted(folder.glob("last.ckpt"))]
    for path in files:
        try:
            read_checkpoint(path)
        except UserError as error:
            print(f"passed over: {error}", file=sys.stderr, flush=True)
        else:
            return path
    if files:
        raise UserError(f"resume=last: no checkpoint in {folder} is sound; nothing to go on from")
    return None


def run_of(checkpoint: str | Path) -> Path:
    """The run folder that a checkpoint lies in."""
    return Path(checkpoint).absolute().parent.parent


def reported_until(run_dir: Path) -> int:
    """The images seen at the last row of a run's curves, 0 where there is none."""
    return max((images_seen(row) for row in read_rows(run_dir / HISTORY)[1]), default=0)


def take_along(resume: str | None, run_dir: Path, checkpoint: dict[str, Any]) -> None:
    """Makes the run folder what it was when the checkpoint was written: nothing later, nothing missing.

    In a folder of its own, a resumed run begins with copies. Without a checkpoint only old curves go.
    """
    source = run_of(resume) if resume else run_dir
    seen = checkpoint["images_seen"] if resume else -1
    keep_rows(source / HISTORY, run_dir / HISTORY, seen)
    if not resume:
        return
    for picture in sorted((source / "images").glob("*.png")):
        target = run_dir / "images" / picture.name
        match = re.search(r"_(\d+)\.png$", picture.name)
        if match and int(match[1]) > seen:
            target.unlink(missing_ok=True)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, target)
    if (source / "tensorboard").is_dir() and not (run_dir / "tensorboard").exists():
        shutil.copytree(source / "tensorboard", run_dir / "tensorboard")
    # It may have been killed before the checkpoint got this name, and may have nothing left to train.
    link(Path(resume), run_dir / "checkpoints" / "last.ckpt")
    take_best_along(Path(resume), run_dir / "checkpoints", checkpoint)


def take_best_along(resume: Path, folder: Path, checkpoint: dict[str, Any]) -> None:
    """best.ckpt becomes the one that was best then, or goes if that one is gone."""
    best = inside(checkpoint, int, "callbacks", "Checkpoints", "best", "images_seen")
    candidates = [folder / "best.ckpt", resume.with_name("best.ckpt"), resume]
    candidates += [numbered(resume.parent, best)] if best is not None else []
    for path in candidates:
        with contextlib.suppress(UserError):
            if read_checkpoint(path)["images_seen"] != best:
                continue
            link(path, folder / "best.ckpt")
            return
    (folder / "best.ckpt").unlink(missing_ok=True)


def inside(checkpoint: Any, kind: type[T], *keys: str) -> T | None:
    """A value deep in a checkpoint, None where there is none of this kind."""
    for key in keys:
        checkpoint = checkpoint.get(key) if isinstance(checkpoint, dict) else None
    return checkpoint if isinstance(checkpoint, kind) else None


def keep_rows(source: Path, target: Path, seen: int) -> None:
    """Copies a file of curves up to the images seen, later rows and a row that was cut short left out."""
    columns, rows = read_rows(source)
    kept = [row for row in rows if images_seen(row) <= seen]
    if not kept:
        target.unlink(missing_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(kept)
    os.replace(partial, target)


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows, without a last line that has no end."""
    if not path.exists():
        return [], []
    with path.open(newline="") as file:
        text = file.read()
    reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    rows = list(reader)
    return list(reader.fieldnames or []), rows


def images_seen(row: dict[str, str]) -> int:
    return int(row["images_seen"])
