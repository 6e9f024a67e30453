"""What a run that goes on finds and takes along: its newest sound checkpoint, curves, images, best checkpoint."""

import contextlib
import csv
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, TypeVar

from src.callbacks.checkpoints import all_numbered, link, numbered
from src.core.errors import UserError
from src.models.checkpoint import read_checkpoint

HISTORY = "metrics.csv"
T = TypeVar("T")


def latest_valid_checkpoint(run_dir: Path) -> Path | None:
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


def run_of(checkpoint: str | Path, otherwise: Path) -> Path:
    """The run folder that a checkpoint lies in; for one that lies in none, the other."""
    folder = Path(checkpoint).absolute().parent
    return folder.parent if folder.name == "checkpoints" else otherwise


def restore_run_dir(resume: str | None, run_dir: Path, checkpoint: dict[str, Any]) -> None:
    """Makes the run folder what it was when the checkpoint was written: nothing later, nothing missing.

    In a folder of its own, a resumed run begins with copies. Without a checkpoint all of an earlier attempt goes.
    Killed on the way, a run still goes on right: later checkpoints go before what they go with, and last.ckpt is
    written when all else is there.
    """
    folder, seen = run_dir / "checkpoints", checkpoint["images_seen"] if resume else -1
    source = run_of(resume, run_dir) if resume else run_dir
    folder.mkdir(parents=True, exist_ok=True)
    if resume and Path(resume).parent.samefile(folder):
        link(Path(resume), numbered(folder, seen))
    else:
        (folder / "last.ckpt").unlink(missing_ok=True)
    for number, path in reversed(all_numbered(folder).items()):
        if number > seen:
            path.unlink()
    for path in folder.glob("*.part"):
        path.unlink()

    keep_rows(source / HISTORY, run_dir / HISTORY, seen)
    keep_images(source / "images", run_dir / "images", seen)
    events = run_dir / "tensorboard"
    if not resume:
        shutil.rmtree(events, ignore_errors=True)
        return
    if (source / "tensorboard").is_dir() and not events.exists():
        copy(source / "tensorboard", events)
    take_best_along(Path(resume), folder, checkpoint)
    link(Path(resume), numbered(folder, seen))
    link(numbered(folder, seen), folder / "last.ckpt")


def take_best_along(resume: Path, folder: Path, checkpoint: dict[str, Any]) -> None:
    """best.ckpt becomes the one that was best then, or goes if that one is gone."""
    best = inside(checkpoint, int, "callbacks", "Checkpoints", "best", "images_seen")
    if best is None:  # until one is judged, the newest
        link(resume, folder / "best.ckpt")
        return
    names = ("best.ckpt", numbered(folder, best).name)
    for path in (*(folder / name for name in names), *(resume.with_name(name) for name in names), resume):
        with contextlib.suppress(UserError):
            if read_checkpoint(path)["images_seen"] == best:
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


def keep_images(source: Path, target: Path, seen: int) -> None:
    """Copies grids up to the images seen that the target lacks; later ones go from there."""
    for path in target.glob("*.png"):
        if drawn_at(path) > seen:
            path.unlink()
    for path in sorted(source.glob("*.png")):
        if drawn_at(path) <= seen and not (target / path.name).exists():
            copy(path, target / path.name)


def drawn_at(image: Path) -> int:
    """The images seen that a grid's name tells of; of others none."""
    match = re.search(r"_(\d+)\.png$", image.name)
    return int(match[1]) if match else -1


def copy(source: Path, target: Path) -> None:
    """A file or a folder, which is there as a whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    if source.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
    else:
        shutil.copyfile(source, partial)
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
