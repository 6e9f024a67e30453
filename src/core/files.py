"""Files that are written as a whole or not at all, digests, locks between processes, and the user's cache folder."""

import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


def user_cache_dir() -> Path:
    """Return the folder of downloads and computed files: $XDG_CACHE_HOME/cat-faces or ~/.cache/cat-faces."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cat-faces"


def write_atomic(path: Path, content: bytes | str, sync: bool = False) -> None:
    """Write a file under a temporary name beside it and rename it, so that no reader ever sees half of it.

    With sync, the content and the folder's entry are on the disk when this returns. The folder is made if absent.
    Raises OSError; the temporary file is then gone and the old content untouched.
    """
    partial = temporary_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
        if sync:
            sync_dir(path.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def copy_atomic(source: Path, target: Path) -> None:
    """Copy a file or a folder, which is then there as a whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_name(target)
    if source.is_dir():
        shutil.copytree(source, partial)
    else:
        shutil.copyfile(source, partial)
    os.replace(partial, target)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name (a copy where the file system has no links), replacing what has that name."""
    if target.exists() and target.samefile(source):
        return  # renaming one name of a file to another of its names would do nothing, and leave both
    partial = temporary_name(target)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    os.replace(partial, target)


def temporary_name(path: Path) -> Path:
    """Return a new name beside a file, ending in `.part`: what killed processes leave is recognized by it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


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


@contextmanager
def locked(path: Path, message: str = "", patience_s: float = 2.0) -> Iterator[None]:
    """Hold the lock of a file; it ends with its process. The message is printed by whoever waits longer than that."""
    lock = FileLock(path, mode=0o666)
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        if message:
            print(message, file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Tell whether a living process holds the lock of a file, or may: another user's file that is not to be opened."""
    try:
        with FileLock(path, mode=0o666, timeout=0):
            return False
    except (Timeout, PermissionError):
        return True
