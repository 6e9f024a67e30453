"""Read the image files of a folder or an archive, one after the other, without unpacking anything."""

import hashlib
import os
import re
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from src.core.errors import UserError
from src.core.types import ARCHIVES, IMAGES

ALTERNATIVES = (
    f"point data.root at a folder, {', '.join(ARCHIVES)} of {', '.join(IMAGES)} files, or use data=drawn_cats"
)
SETTLED_S = 2.0
LARGEST_FILE = 2**28  # bytes; an image file of more is a mistake or an attack


class Unusable(Exception):
    """Raised for a file that gives no image; the message is the reason."""


@dataclass(frozen=True)
class ImageFile:
    """An image file: its path below the root or subfolder, and a function that reads it.

    read raises Unusable, or whatever else a broken file raises.
    """

    name: str
    read: Callable[[], bytes]


def image_files(root: Path, subfolder: str = "") -> Iterator[ImageFile]:
    """Yield the image files of a folder, .zip, .tar, .tar.gz or .tgz, as they are stored, each name once.

    Hidden files, links, devices and files without an image's suffix are ignored. Raises UserError for a root that does
    not exist or holds no images, and for an archive that can't be read.
    """
    names = set()
    with reading(root):
        for path, read in _files(root):
            name = _image_name(path, subfolder)
            if name and name not in names:
                names.add(name)
                leaves = path.startswith("/") or ".." in path.split("/")
                yield ImageFile(name, partial(_refuse, "its path leaves the archive") if leaves else read)
    if not names:
        empty = root.is_dir() and next(root.iterdir(), None) is None
        below = f" below a folder {subfolder}" if subfolder else ""
        raise UserError(
            f"{root.absolute()} {'is an empty folder' if empty else f'holds no images{below}'}; {ALTERNATIVES}"
        )


def count_images(root: Path, subfolder: str) -> int | None:
    """Return the number of image files, or None where they would have to be read for that: in a tar."""
    countable = root.is_dir() or root.name.lower().endswith(".zip")
    return sum(1 for _ in image_files(root, subfolder)) if countable else None


def image_digests(root: Path, subfolder: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name and SHA-256 (hexadecimal) of every image file; an empty digest for one that can't be read."""
    for file in image_files(root, subfolder):
        try:
            yield file.name, hashlib.sha256(file.read()).hexdigest()
        except Exception:  # a broken archive member raises nearly anything
            yield file.name, ""


def files_state(root: Path, subfolder: str) -> str:
    """Return a digest of the image files' paths, sizes and times, which changes whenever the files do.

    It is empty while a file is so new that its next change could have the same time.
    """
    with reading(root):
        paths = [""] if root.is_file() else [path for path in _paths(root) if _image_name(path, subfolder)]
        stats = [(path, os.stat(os.path.join(root, path) if path else root)) for path in sorted(paths)]
    # The change time too: unlike the modification time no program can set it back.
    lines = [f"{path}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n" for path, stat in stats]
    settled = time.time() - max((stat.st_ctime for _, stat in stats), default=0) > SETTLED_S
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest() if settled else ""


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a key that sorts cat_2 before cat_10."""
    parts = [part.lstrip("0") if index % 2 else part for index, part in enumerate(re.split("([0-9]+)", name))]
    # The longer number is the larger one, even if it has more digits than Python would convert.
    return [(len(part) if index % 2 else 0, part) for index, part in enumerate(parts)], name


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """Turn whatever is wrong with a root, or goes wrong when it is read, into a UserError."""
    if not root.exists():
        raise UserError(f"data.root={root} does not exist; {ALTERNATIVES}")
    if not root.is_dir() and not root.name.lower().endswith(ARCHIVES):
        raise UserError(f"data.root={root} is neither a folder nor an archive; {ALTERNATIVES}")
    try:
        yield
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UserError(f"can't read {root}: {error}; make or fetch it again, or {ALTERNATIVES}") from error


def _files(root: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the path of every file and a function that reads it."""
    if root.is_dir():
        for path in _paths(root):
            yield path, partial(_read, os.path.join(root, path))
    elif root.name.lower().endswith(".zip"):
        archive = zipfile.ZipFile(root)  # closed with the last file that holds it
        for info in archive.infolist():
            yield info.filename, partial(_read_member, archive, info)
    else:
        with tarfile.open(root) as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember every one
                if not member.isfile() or not member.name.lower().endswith(IMAGES):
                    continue
                # Read on the way, so that the archive is decompressed once.
                file = tar.extractfile(member) if member.size <= LARGEST_FILE else None
                yield member.name, partial(bytes, file.read()) if file else partial(_check_size, member.size)


def _paths(root: Path) -> Iterator[str]:
    """Yield the paths of all image files of a folder, however deep. Links to folders are not followed."""
    pending = [""]
    while pending:
        inside = pending.pop()
        with os.scandir(os.path.join(root, inside)) as entries:
            found = list(entries)
        for entry in found:
            # Only a link has to be looked at: the folder knows the rest.
            if entry.name.lower().endswith(IMAGES) and (
                os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
            ):
                yield inside + entry.name
        pending += reversed([f"{inside}{entry.name}/" for entry in found if entry.is_dir(follow_symlinks=False)])


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        _check_size(os.fstat(file.fileno()).st_size)
        return file.read()


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_size(info.file_size)
    return archive.read(info)


def _check_size(size: int) -> bytes:
    if size > LARGEST_FILE:
        _refuse(f"a file of {size / 2**20:,.0f} MiB is no image ({LARGEST_FILE // 2**20} MiB at most)")
    return b""


def _refuse(reason: str) -> bytes:
    raise Unusable(reason)


def _image_name(path: str, subfolder: str) -> str | None:
    """Return an image's path below the subfolder, wherever that is; None for what is hidden, no image or elsewhere."""
    # PurePosixPath would do the same, but takes many times as long.
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)
    if hidden or not path.lower().endswith(IMAGES):
        return None
    inside = "/" + "/".join(parts)
    return inside.partition(f"/{subfolder}/")[2] if subfolder else inside[1:]
