"""Locks between processes, which end with their process whatever happens to it."""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, message: str = "", patience_s: float = 2.0) -> Iterator[None]:
    """Holds the lock of this file; the message is shown to who waits long."""
    file = _open(path)
    try:
        message_at = time.monotonic() + patience_s
        while not _lock(file):
            if message and time.monotonic() > message_at:
                print(message, file=sys.stderr, flush=True)
                message = ""
            time.sleep(0.05)
        yield
    finally:
        os.close(file)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    file = _open(path)
    try:
        return not _lock(file)
    finally:
        os.close(file)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # a network file system locks only what may be written
    except PermissionError:
        return os.open(path, os.O_RDONLY)  # another user's


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
