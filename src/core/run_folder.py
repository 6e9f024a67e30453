"""A run folder: its owner, the names of its files, its checkpoints and its config. Needs no torch."""

import csv
import errno
import io
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from src.core.errors import UserError, printable
from src.core.ranks import get_rank_info

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHECKPOINTS, CONFIG, METRICS, SUMMARY, IMAGES = "checkpoints", "config.yaml", "metrics.csv", "summary.json", "images"
LAST, BEST, EXPORTED, LOCK = "last.safetensors", "best.safetensors", "model.safetensors", "run.lock"
MILESTONES = "milestones"  # below CHECKPOINTS: weights after 1, 2, 4, 8, ... images, to look at only
FILM = "growing_up.webp"  # below IMAGES
ERROR = "error.txt"  # why the run failed, in one sentence
JOB = "job.json"  # of a job of a sweep: its number, the options that are its own, and how it ended
STUDY = "study.yaml"  # in the folder of a study, above the runs of its trials
MAX_CONFIG = 100_000  # characters
STOPS_WITHIN_S = 130.0  # a run that was asked to stop
KILLED_WITHIN_S = 10.0  # the ranks of a run that torchrun or SLURM kill
held: set[int] = set()  # the descriptors of the locks of the run folders that this process owns


@contextmanager
def owned(run_dir: Path, resume: str | None) -> Iterator[None]:
    """Own a run folder: no other run writes there until this process and those that inherit the lock have ended.

    With resume=last a run that is stopping is waited for. Of ranks that torchrun or SLURM started, only the first takes
    the lock, and it waits only for what is left of a killed run, as the others read the folder meanwhile. Raises
    UserError for a folder that another run owns, that holds a run which is not to be resumed, or in which links lead
    elsewhere.
    """
    here = get_rank_info()
    is_first = not here or here.rank == 0
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"can't make the folder {error.filename}: {error.strerror}; give another run_dir") from error
    for pattern in ("*", f"{CHECKPOINTS}/*", f"{IMAGES}/*"):
        for path in run_dir.glob(pattern):
            no_link(path)
    patience_s = (KILLED_WITHIN_S if here else STOPS_WITHIN_S) if resume == "last" else 0
    descriptor = lock(run_dir, patience_s) if is_first else None
    if descriptor is not None:
        held.add(descriptor)
    try:
        of_a_run = [f"{CHECKPOINTS}/*.safetensors", f"{IMAGES}/*.png", METRICS, SUMMARY]
        of_a_run += [CONFIG] if is_first else []  # the first rank may have written it by now
        if not resume and any(next(run_dir.glob(pattern), None) for pattern in of_a_run):
            raise UserError(f"run_dir={run_dir} holds a run; add resume=last to go on with it, or give another folder")
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)  # ranks that still run hold it
            held.remove(descriptor)


def lock(run_dir: Path, patience_s: float) -> int | None:
    """Return the descriptor of a run folder's lock, None where there are no locks. Raises UserError, see owned."""
    descriptor, deadline, waits = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o666), time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            owner = printable((run_dir / LOCK).read_text(errors="replace")[:200]) or "another process"
            if time.monotonic() > deadline + patience_s:
                os.close(descriptor)
                raise UserError(
                    f"{run_dir} belongs to a run that goes on: {owner}; wait for it, stop it, or give another run_dir"
                ) from None
            if not waits:
                print(f"{run_dir} belongs to {owner}; waiting {patience_s:.0f} s for it to end", flush=True)
            waits = True
            time.sleep(0.2)
        except (OSError, AttributeError):  # a file system, or a system, without
            print(f"{run_dir} can't be locked here: take care that no other run uses it", flush=True)
            os.close(descriptor)
            return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def no_link(path: Path) -> Path:
    """Return a path of a run folder, to be written to. Raises UserError for a link, which leads to somebody else's."""
    if path.is_symlink():
        raise UserError(f"{path} is a link, and nothing is written through links; put what it leads to in its place")
    return path


@contextmanager
def full_disk_explained(run_dir: Path, last: str | Path | None = None) -> Iterator[None]:
    """Turn the error of a full disk into a UserError that names the last checkpoint, by default the folder's newest."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        last = last or next(reversed(numbered_checkpoints(run_dir / CHECKPOINTS).values()), None)
        where = f"the last valid checkpoint is {last}" if last else "there is no checkpoint yet"
        raise UserError(f"can't write {error.filename or run_dir}: {error.strerror}; {where}") from error


def checkpoint_name(images_seen: int) -> str:
    """Return the file name of the checkpoint after so many images."""
    return f"images_{images_seen:09d}.safetensors"


def numbered_checkpoints(folder: Path) -> dict[int, Path]:
    """Return the numbered files of a checkpoints folder by their images seen, oldest first."""
    found = {path: re.fullmatch(r"images_(\d+)\.safetensors", path.name) for path in folder.glob("images_*")}
    return dict(sorted((int(match[1]), path) for path, match in found.items() if match))


def run_dir_of(checkpoint: Path) -> Path | None:
    """Return the run folder that a checkpoint lies in, None for a file that lies elsewhere."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == CHECKPOINTS else None


def resolve_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that a path means: the file itself, a run folder's best one, else its last one.

    Of an exported folder it is the model's file. Raises UserError for a path that does not exist, a folder that is
    neither, and a run without checkpoints.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"can't read the checkpoint {path}: there is no such file or run folder")
    folder = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    for file in (folder / BEST, folder / LAST, *reversed(numbered_checkpoints(folder).values()), path / EXPORTED):
        if file.is_file():
            return file
    if folder.is_dir() or (path / CONFIG).is_file():
        raise UserError(f"the run {path} has no checkpoint yet; wait for its first one, or give another run folder")
    what = "is no run folder" if any(path.iterdir()) else "is an empty folder"
    raise UserError(
        f"{path} {what}: give a run folder (it has {CHECKPOINTS}/), a file of its {CHECKPOINTS}/, or an exported folder"
    )


def read_config(run_dir: Path | None) -> dict[str, Any]:
    """Return a run's resolved config as config.yaml has it, empty where there is none that can be read."""
    if run_dir is None:
        return {}
    try:
        with (run_dir / CONFIG).open() as file:
            config = yaml.safe_load(file.read(MAX_CONFIG))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        config = None
    return config if isinstance(config, dict) else {}


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and rows of a file of curves, without a last line that has no end."""
    if not path.exists():
        return [], []
    with path.open(newline="") as file:
        text = file.read()
    reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    try:
        rows = [row for row in reader if int(row["images_seen"]) >= 0]
    except (LookupError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"can't read {path}: its rows are no curves of a run ({error!r:.80}); remove it") from error
    return list(reader.fieldnames or []), rows


def rows_text(columns: list[str], rows: Iterable[dict[str, Any]], header: bool = True) -> str:
    """Return rows as the text of a file of curves, or of a part to be appended to one."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
