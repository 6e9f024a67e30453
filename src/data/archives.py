"""Image files of a folder or an archive, one after the other, without unpacking anything."""

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

WAY_OUT = f"point data.root at a folder, {', '.join(ARCHIVES)} of {', '.join(IMAGES)} files, or use data=drawn_cats"
SETTLED_S = 2.0
LARGEST_FILE = 2**28  # bytes; a image file of more is a mistake or an attack


class Unusable(Exception):
    """Why a file gives no image."""


@dataclass(frozen=True)
class ImageFile:
    """name: its path below the root or subfolder. read raises Unusable, or whatever else a broken file raises."""

    name: str
    read: Callable[[], bytes]


def image_files(root: Path, subfolder: str = "") -> Iterator[ImageFile]:
    """Those of a folder, .zip, .tar, .tar.gz or .tgz, in the order in which they are stored; none is named twice.

    Hidden files, links, devices and what has no image's suffix are passed over. UserError: no such root, or an
    archive that can't be read.
    """
    named = set()
    with reading(root):
        for path, read in _files(root):
            name = _image_name(path, subfolder)
            if name and name not in named:
                named.add(name)
                leaves = path.startswith("/") or ".." in path.split("/")
                yield ImageFile(name, partial(_refuse, "its path leaves the archive") if leaves else read)
    if not named:
        below = f" below a folder {subfolder}" if subfolder else ""
        raise UserError(f"{root.absolute()} holds no images{below}; {WAY_OUT}")


def num_images(root: Path, subfolder: str) -> int | None:
    """Image files, where counting them reads none: not of a tar."""
    countable = root.is_dir() or root.name.lower().endswith(".zip")
    return sum(1 for _ in image_files(root, subfolder)) if countable else None


def digests(root: Path, subfolder: str = "") -> Iterator[tuple[str, str]]:
    """Name and SHA-256 (hex) of every image file; of one that can't be read, no digest."""
    for file in image_files(root, subfolder):
        try:
            yield file.name, hashlib.sha256(file.read()).hexdigest()
        except Exception:  # a broken archive member raises nearly anything
            yield file.name, ""


def state(root: Path, subfolder: str) -> str:
    """What can be told of the image files without reading them: changes whenever they do.

    Empty while they are so new that the next change could bear the same time.
    """
    with reading(root):
        paths = [""] if root.is_file() else [path for path in _paths(root) if _image_name(path, subfolder)]
        stats = [(path, os.stat(os.path.join(root, path) if path else root)) for path in sorted(paths)]
    # The change time too: unlike the modification time no program can set it back.
    lines = [f"{path}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n" for path, stat in stats]
    settled = time.time() - max((stat.st_ctime for _, stat in stats), default=0) > SETTLED_S
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest() if settled else ""


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorting key: cat_2 before cat_10."""
    parts = [part.lstrip("0") if index % 2 else part for index, part in enumerate(re.split("([0-9]+)", name))]
    # Of numbers the longer is the larger, however many digits that Python would read.
    return [(len(part) if index % 2 else 0, part) for index, part in enumerate(parts)], name


@contextmanager
def reading(root: Path) -> Iterator[None]:
    if not root.exists():
        raise UserError(f"data.root={root} does not exist; {WAY_OUT}")
    if not root.is_dir() and not root.name.lower().endswith(ARCHIVES):
        raise UserError(f"data.root={root} is neither a folder nor an archive; {WAY_OUT}")
    try:
        yield
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UserError(f"can't read {root}: {error}; make or fetch it again, or {WAY_OUT}") from error


def _files(root: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Path and reading of every file."""
    if root.is_dir():
        for path in _paths(root):
            yield path, partial(_read, os.path.join(root, path))
    elif root.name.lower().endswith(".zip"):
        archive = zipfile.ZipFile(root)  # closed with the last file that holds it
        for info in archive.infolist():
            yield info.filename, partial(_read_member, archive, info)
    else:
        yield from _tar_files(root)


def _paths(root: Path) -> Iterator[str]:
    """Of every image file of a folder, however deep. Links to folders are not followed."""
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


def _tar_files(root: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Read on the way, so that it is decompressed once."""
    with tarfile.open(root) as tar:
        while member := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # it would remember every one
            if not member.isfile() or not member.name.lower().endswith(IMAGES):
                continue
            file = tar.extractfile(member) if member.size <= LARGEST_FILE else None
            yield member.name, partial(bytes, file.read()) if file else partial(_refuse, _too_large(member.size))


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST_FILE:
            raise Unusable(_too_large(size))
        return file.read()


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > LARGEST_FILE:
        raise Unusable(_too_large(info.file_size))
    return archive.read(info)


def _refuse(reason: str) -> bytes:
    raise Unusable(reason)


def _too_large(size: int) -> str:
    return f"a file of {size / 2**20:,.0f} MiB is no image ({LARGEST_FILE // 2**20} MiB at most)"


def _image_name(path: str, subfolder: str) -> str | None:
    """The image's path below the subfolder, wherever that lies; None for what is hidden, no image or elsewhere."""
    # As PurePosixPath would; that takes many times as long, and sets are large.
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)
    if hidden or not path.lower().endswith(IMAGES):
        return None
    inside = "/" + "/".join(parts)
    return inside.partition(f"/{subfolder}/")[2] if subfolder else inside[1:]
