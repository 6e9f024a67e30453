"""Read the image files of a folder or an archive, one after the other, without unpacking anything."""

import hashlib
import io
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from stat import S_ISLNK
from typing import Any

from src.core.errors import UserError
from src.core.types import ARCHIVES, IMAGES

ALTERNATIVES = (
    f"point data.root at a folder, {', '.join(ARCHIVES)} of {', '.join(IMAGES)} files, or use data=drawn_cats"
)
LARGEST_FILE = 2**28  # bytes; an image file of more is a mistake or an attack
LARGEST_HEADERS = 2**20  # bytes of what a tar says about one file


class Unusable(Exception):
    """Raised for a file that gives no image; the message is the reason."""


class UnusableSource(UserError):
    """Raised for a folder or an archive that can't be read or gives no images."""


@dataclass(frozen=True)
class ImageFile:
    """An image file: its path below the root or subfolder, a function that reads it, and the bytes that takes.

    read raises whatever a broken file raises; of a tar's file of more than LARGEST_FILE bytes it gives nothing.
    """

    name: str
    read: Callable[[], bytes]
    size: int = 0


def image_files(root: Path, subfolder: str = "", unread: Counter[str] | None = None) -> Iterator[ImageFile]:
    """Yield the image files of a folder, .zip, .tar, .tar.gz or .tgz, as they are stored, each name once.

    Hidden files, linked folders, and links and devices in archives are ignored; `unread` counts the other files by
    their endings. Raises UnusableSource for a root that does not exist or holds no images, and for an archive
    that can't be read.
    """
    names, unread = set(), Counter() if unread is None else unread
    with reading(root):
        for path, size, read in _files(root):
            name = _shown_name(path, subfolder)
            if not name or name in names:
                continue
            if not name.lower().endswith(IMAGES):
                unread[os.path.splitext(name)[1].lower() or "no ending"] += 1
                continue
            names.add(name)
            yield ImageFile(name, read, size)
    if not names:
        empty = root.is_dir() and next(root.iterdir(), None) is None
        below = f" below a folder {subfolder}" if subfolder else ""
        others = f" ({listed(unread)})" if unread else ""
        raise UnusableSource(
            f"{root.absolute()} {'is an empty folder' if empty else f'holds no images{below}{others}'}; {ALTERNATIVES}"
        )


def listed(unread: Mapping[str, int]) -> str:
    """Return the counts of files by ending, the most frequent first, as one line."""
    by_count = sorted(unread.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {ending}" for ending, count in by_count)


def files_state(root: Path, subfolder: str) -> str:
    """Return a digest of the image files' paths, sizes and times, which changes whenever the files do."""
    with reading(root):
        found = [("", root.stat())] if root.is_file() else _stats(root)
        images = ((path, stat) for path, stat in found if not path or path.lower().endswith(IMAGES))
        files = sorted((path, stat) for path, stat in images if not path or _shown_name(path, subfolder))
    # No program can set the change time back, as it can the modification time; the inode tells apart files that take
    # each other's names.
    lines = [f"{path}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}\n" for path, stat in files]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """Turn whatever goes wrong when a root is read into an UnusableSource."""
    try:
        yield
    except Exception as error:  # tarfile and the decompressors raise nearly anything on a broken archive
        reason = str(error).partition("\n")[0]  # tarfile goes on with all the formats it has tried
        raise UnusableSource(f"can't read {root}: {reason}; make or fetch it again, or {ALTERNATIVES}") from error


def _files(root: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Yield the path of every file, its size and a function that reads it."""
    if root.is_dir():
        for path, stat in _stats(root):
            yield path, stat.st_size, (root / path).read_bytes
    elif root.name.lower().endswith(".zip"):
        archive = zipfile.ZipFile(root)  # closed with the last file that holds it
        for info in archive.infolist():
            if info.is_dir() or S_ISLNK(info.external_attr >> 16):
                continue
            yield info.filename, info.file_size, partial(archive.read, info)
    else:
        with _Tar.open(root) as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember every one
                if member.isfile():
                    # Read on the way, so that the archive is decompressed once.
                    wanted = 0 < member.size <= LARGEST_FILE and member.name.lower().endswith(IMAGES)
                    tar.fileobj.left = member.size
                    file = tar.extractfile(member) if wanted else None
                    yield member.name, member.size, partial(bytes, file.read() if file else b"")
                tar.fileobj.left = LARGEST_HEADERS


class _Tar(tarfile.TarFile):
    """A tar, compressed or not, whose headers fill no memory: long names, extensions and maps of sparse files."""

    fileobj: "_BoundedReader"

    @classmethod
    def taropen(cls, name: Any, mode: Any = "r", fileobj: Any = None, **options: Any) -> "_Tar":
        return super().taropen(name, mode, _BoundedReader(fileobj or io.FileIO(name)), **options)


class _BoundedReader(io.BufferedReader):
    """A stream that gives at most `left` bytes."""

    left = LARGEST_HEADERS

    def read(self, size: int | None = -1) -> bytes:
        self.left -= size if size and size > 0 else 0
        if self.left < 0:
            raise tarfile.ReadError(f"headers of more than {LARGEST_HEADERS // 2**20} MiB")
        return super().read(size)


def _stats(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path and state of all files of a folder, however deep. Links to folders are not followed."""

    def fail(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(root, onerror=fail):
        inside = os.path.relpath(folder, root)
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield os.path.join(inside, name), os.stat(path)


def _shown_name(path: str, subfolder: str) -> str | None:
    """Return a file's path below the subfolder, wherever that is; None for what is hidden or elsewhere."""
    # PurePosixPath would do the same, but takes many times as long.
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)
    if hidden:
        return None
    inside = "/" + "/".join(parts)
    return inside.partition(f"/{subfolder}/")[2] if subfolder else inside[1:]
