"""Files that are written as a whole or not at all, digests, locks between processes, and the user's cache folder."""

import hashlib
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from src.core.errors import UserError


def user_cache_dir() -> Path:
    """Return the folder of downloads and computed files: $XDG_CACHE_HOME/cat-faces or ~/.cache/cat-faces."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cat-faces"
    except RuntimeError:  # the user has no home
        return _temporary_cache_dir()


@cache
def _temporary_cache_dir() -> Path:
    folder = Path(tempfile.gettempdir(), f"cat-faces-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to somebody else, and there is no home folder; set XDG_CACHE_HOME=FOLDER")
    print(f"no home folder: downloads and caches are kept in {folder}; or set XDG_CACHE_HOME=FOLDER", file=sys.stderr)
    return folder


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a name beside a file or folder; what has that name at the end replaces it. The folder is made if absent.

    The name ends in `.part`, by which what killed processes leave is recognized; after an error no file has it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


def write_atomic(path: Path, content: bytes | str, sync: bool = False) -> None:
    """Write a file so that no reader ever sees half of it; raises OSError and then leaves the old content untouched.

    With sync, the content and the folder's entry are on the disk when this returns.
    """
    with replaced(path) as partial, partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    if sync:
        sync_dir(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name (a copy where the file system has no links), replacing what has that name."""
    if target.exists() and target.samefile(source):
        return  # renaming one name of a file to another of its names would do nothing, and leave both
    with replaced(target) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def sync_dir(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locked(path: Path, message: str = "") -> AbstractContextManager[Any]:
    """Hold the lock of a file; it ends with its process. Whoever waits longer than two seconds prints the message."""
    lock = FileLock(path, mode=0o666)
    try:
        return lock.acquire(timeout=2)
    except Timeout:
        if message:
            print(message, file=sys.stderr, flush=True)
        return lock.acquire()


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a key that sorts cat_2 before cat_10."""
    parts = [part.lstrip("0") if index % 2 else part for index, part in enumerate(re.split("([0-9]+)", name))]
    # The longer number is the larger one, even if it has more digits than Python would convert.
    return [(len(part) if index % 2 else 0, part) for index, part in enumerate(parts)], name
