"""Read the image files of a folder or an archive, one after the other, without unpacking anything."""

import hashlib
import os
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
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
                yield ImageFile(name, _refuse if path.startswith("/") or ".." in path.split("/") else read)
    if not names:
        empty = root.is_dir() and next(root.iterdir(), None) is None
        below = f" below a folder {subfolder}" if subfolder else ""
        raise UserError(
            f"{root.absolute()} {'is an empty folder' if empty else f'holds no images{below}'}; {ALTERNATIVES}"
        )


def image_digests(files: Iterable[ImageFile]) -> Iterator[tuple[str, str]]:
    """Yield the name and SHA-256 (hexadecimal) of every image file; an empty digest for one that can't be read."""
    for file in files:
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
            yield path, partial(_read, root / path)
    elif root.name.lower().endswith(".zip"):
        archive = zipfile.ZipFile(root)  # closed with the last file that holds it
        for info in archive.infolist():
            yield info.filename, partial(_checked, info.file_size, partial(archive.read, info))
    else:
        with tarfile.open(root) as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember every one
                if member.isfile() and member.name.lower().endswith(IMAGES):
                    # Read on the way, so that the archive is decompressed once.
                    file = tar.extractfile(member) if member.size <= LARGEST_FILE else None
                    yield member.name, partial(_checked, member.size, partial(bytes, file.read() if file else b""))


def _paths(root: Path) -> Iterator[str]:
    """Yield the paths of all image files of a folder, however deep. Links to folders are not followed."""

    def fail(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(root, onerror=fail):
        inside = os.path.relpath(folder, root)
        for name in names:
            if name.lower().endswith(IMAGES) and os.path.isfile(os.path.join(folder, name)):
                yield os.path.join(inside, name)


def _read(path: Path) -> bytes:
    return _checked(path.stat().st_size, path.read_bytes)


def _checked(size: int, read: Callable[[], bytes]) -> bytes:
    if size > LARGEST_FILE:
        raise Unusable(f"a file of {size / 2**20:,.0f} MiB is no image ({LARGEST_FILE // 2**20} MiB at most)")
    return read()


def _refuse() -> bytes:
    raise Unusable("its path leaves the archive")


def _image_name(path: str, subfolder: str) -> str | None:
    """Return an image's path below the subfolder, wherever that is; None for what is hidden, no image or elsewhere."""
    # PurePosixPath would do the same, but takes many times as long.
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)
    if hidden or not path.lower().endswith(IMAGES):
        return None
    inside = "/" + "/".join(parts)
    return inside.partition(f"/{subfolder}/")[2] if subfolder else inside[1:]
