"""Resuming a run: which checkpoint and config it continues with, and its folder as it was at that checkpoint."""

import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.config.validation import check, check_value
from src.core import run_folder
from src.core.errors import UserError
from src.core.files import link_or_copy, replaced, write_atomic
from src.core.types import UNMEASURED, PositiveInt, Seed
from src.models.checkpoint.config import local_data_options, portable_config
from src.models.checkpoint.loading import check_weights, read_checkpoint


def latest_valid_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest valid checkpoint of a run folder, None where there is none; UserError if all are invalid."""
    folder = run_dir / run_folder.CHECKPOINTS
    files = [*reversed(run_folder.numbered_checkpoints(folder).values()), *folder.glob(run_folder.LAST)]
    for path in files:
        try:
            read_checkpoint(path)
            return path
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr, flush=True)
    if files:
        raise UserError(f"resume=last: no checkpoint in {folder} is valid; give another run_dir, or another checkpoint")
    return None


def resumed_config(config: dict[str, Any], typed: list[str]) -> dict[str, Any]:
    """Return the config of a run that resumes config["resume"]: a checkpoint, a run folder, or last (of run_dir).

    Model, data and seed are the checkpoint's, the rest is today's. Raises UserError where the file can't be used, or
    where another model, other data or another seed is typed, in the overrides of the command line.
    """
    given = config["resume"]
    path = None if given == "last" else run_folder.resolve_checkpoint(given)
    if path is None or (Path(given).is_dir() and path.name != run_folder.EXPORTED):
        path = latest_valid_checkpoint(path.parents[1] if path else Path(config["run_dir"]))
        print(f"resume={given}: {path or 'no checkpoint yet, from the beginning'}", flush=True)
    if path is None:
        return config | {"resume": None}
    checkpoint = read_checkpoint(path)
    if "export" in checkpoint:
        raise UserError(f"resume={given}: an exported model has no optimizers to go on with; give init_from={given}")
    match checkpoint:
        case {"callbacks": {"RunLength": {"max_images": length}}} if config["max_images"] == UNMEASURED:
            config = set_max_images(config, check_value("the checkpoint's max_images", length, PositiveInt))
    stored, today = checkpoint["config"], portable_config(config)
    check_value("the checkpoint's seed", stored.get("seed"), Seed)
    asked = {re.split(r"[=./@]", override.lstrip("+~"))[0] for override in typed}
    for part in ("model", "data", "seed"):
        changed = ", ".join(differences(today[part], stored[part], part))
        if changed and asked & {part, "experiment", "debug"}:
            raise UserError(
                f"a resumed run keeps its model, data and seed, but {changed} would change; "
                "leave it out, or begin another run without resume"
            )
    local = local_data_options(stored["data"], run_folder.run_dir_of(path), config["data"], typed)
    data = check(stored["data"] | local, "data")
    check_weights(checkpoint)
    kept = {"model": check(stored["model"], "model"), "data": data, "seed": stored["seed"]}
    return config | kept | {"resume": str(path), "init_from": None}


def set_max_images(config: Any, max_images: int) -> Any:
    """Return a config (plain dicts and lists) with max_images wherever its length is not measured yet."""
    if isinstance(config, dict):
        return {key: set_max_images(value, max_images) for key, value in config.items()}
    if isinstance(config, list):
        return [set_max_images(value, max_images) for value in config]
    return max_images if config == UNMEASURED else config


def differences(ours: Any, theirs: Any, path: str) -> list[str]:
    """Return the keys at which two configs differ; for objects of different classes, the classes."""
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return [] if ours == theirs else [path]
    our_class, their_class = (str(config.get("_target_")).rpartition(".")[2] for config in (ours, theirs))
    if our_class != their_class:
        return [f"{path} ({our_class} instead of {their_class})"]
    return [item for key in ours | theirs for item in differences(ours.get(key), theirs.get(key), f"{path}.{key}")]


def restore_run_dir(resume: str | None, run_dir: Path, checkpoint: dict[str, Any]) -> None:
    """Make the run folder what it was when the checkpoint was written: nothing later in it, nothing missing.

    In another folder, a resumed run begins with copies. Without a checkpoint, all of an earlier attempt is deleted.
    A run that is killed meanwhile can still be resumed: later checkpoints are deleted before what belongs to them, and
    last.safetensors is written when all else is there.
    """
    folder, images_seen = run_dir / run_folder.CHECKPOINTS, checkpoint["images_seen"] if resume else -1
    source = (run_folder.run_dir_of(Path(resume)) if resume else None) or run_dir
    numbered = folder / run_folder.checkpoint_name(images_seen)
    folder.mkdir(parents=True, exist_ok=True)
    if resume and Path(resume).parent.samefile(folder):
        link_or_copy(Path(resume), numbered)
    else:
        (folder / run_folder.LAST).unlink(missing_ok=True)
    for number, path in reversed(run_folder.numbered_checkpoints(folder).items()):
        if number > images_seen:
            path.unlink()
    for path in list(run_dir.rglob(".*.part")):  # what killed processes were writing
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    milestones = f"{run_folder.CHECKPOINTS}/{run_folder.MILESTONES}"
    restore_rows(source / run_folder.METRICS, run_dir / run_folder.METRICS, images_seen)
    for name in (run_folder.IMAGES, milestones, "tensorboard"):
        if (source / name).is_dir() and not (run_dir / name).exists():
            with replaced(run_dir / name) as partial:
                shutil.copytree(source / name, partial)
    (run_dir / run_folder.IMAGES / run_folder.FILM).unlink(missing_ok=True)  # of a run that had ended
    for path in [*run_dir.glob(f"{run_folder.IMAGES}/*.png"), *run_dir.glob(f"{milestones}/*.safetensors")]:
        written_at = re.search(r"_(\d+)\.\w+$", path.name)
        if written_at and int(written_at[1]) > images_seen:
            path.unlink()
    if not resume:
        shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)
        return
    restore_best(Path(resume), folder, checkpoint)
    link_or_copy(Path(resume), numbered)
    link_or_copy(numbered, folder / run_folder.LAST)


def restore_best(resume: Path, folder: Path, checkpoint: dict[str, Any]) -> None:
    """Make best.safetensors the file that was the best at the checkpoint; delete it if that file is gone."""
    # Until one is evaluated, the newest.
    best = checkpoint["callbacks"]["Checkpoints"]["best"].get("images_seen", checkpoint["images_seen"])
    names = (run_folder.BEST, run_folder.checkpoint_name(best))
    for path in (*(folder / name for name in names), *(resume.with_name(name) for name in names), resume):
        with suppress(UserError):
            if read_checkpoint(path)["images_seen"] == best:
                link_or_copy(path, folder / run_folder.BEST)
                return
    (folder / run_folder.BEST).unlink(missing_ok=True)


def restore_rows(source: Path, target: Path, images_seen: int) -> None:
    """Copy a file of curves up to the images seen, without later rows and a row that was cut short."""
    columns, rows = run_folder.read_rows(source)
    kept = [row for row in rows if int(row["images_seen"]) <= images_seen]
    if kept:
        write_atomic(target, run_folder.rows_text(columns, kept))
    else:
        target.unlink(missing_ok=True)
