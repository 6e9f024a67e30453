"""Where pictures come from: a folder or archive, or drawn by a program. Public sets are in public.py."""

import io
import os
import re
import tarfile
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from src.data.drawn_cats import draw_cats, draw_factors
from src.data.pictures import Pictures
from src.errors import UserError
from src.schema import ARCHIVES, PICTURES

WAY_OUT = f"point data.root at a folder, {', '.join(ARCHIVES)} of {', '.join(PICTURES)} files, or use data=drawn_cats"

Item = TypeVar("Item")


class Source(Protocol):
    """Where pictures come from."""

    @property
    def description(self) -> str:
        """What is read and from where: one line for the screen. Decodes nothing."""

    def load(self, image_size: int, num_workers: int) -> Pictures:
        """All pictures, image_size pixels square, made in num_workers threads (0: as many as cores)."""


class Folder(Source):
    """The PNG, JPEG and WebP pictures of a folder, however deep, .zip, .tar, .tar.gz or .tgz, in natural order.

    With a subfolder ("cats", "train/cat"), only those below it, wherever it lies, named relative to it.
    Archives are read in memory, nothing is unpacked. UserError: nothing there, or a picture that can't be read.
    """

    def __init__(self, root: str | Path, subfolder: str = "") -> None:
        self.root = Path(root).expanduser()
        self.subfolder = subfolder

    @property
    def description(self) -> str:
        return f"{len(self.names):,} pictures of {self.root.absolute().name}"

    @cached_property
    def names(self) -> list[str]:
        """Path of every picture, 2 before 10. A .tar.gz is decompressed for it."""
        with self._reading():
            names = {name for name, _ in self._walk()}
        if not names:
            below = f" below a folder {self.subfolder}" if self.subfolder else ""
            raise UserError(f"{self.root} holds no pictures{below}; {WAY_OUT}")
        return sorted(names, key=lambda name: (_natural(name), name))

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of every picture file, in the order in which they are stored: one sequential pass."""
        with self._reading():
            for name, read in self._walk():
                yield name, read()

    def load(self, image_size: int, num_workers: int) -> Pictures:
        slots = {name: slot for slot, name in enumerate(self.names)}
        images = np.empty((len(slots), 3, image_size, image_size), np.uint8)

        def decode(item: tuple[int, bytes]) -> int:
            slot, content = item
            try:
                images[slot] = decode_picture(content, image_size)
            except Exception as error:  # Pillow raises nearly anything on a broken file.
                unknown = isinstance(error, UnidentifiedImageError)
                reason = "its content is no PNG, JPEG or WebP" if unknown else error
                raise UserError(f"can't read {self.names[slot]} of {self.root}: {reason}; mend or remove it") from error
            return 1

        # A name stored twice counts once: the pop takes the first.
        items = ((slots.pop(name), content) for name, content in self.contents() if name in slots)
        in_threads(decode, items, len(self.names), num_workers, "decoding pictures")
        return Pictures.of(torch.from_numpy(images), self.names)

    def _walk(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        for path, read in _files(self.root):
            name = _picture_name(path, self.subfolder)
            if name:
                yield name, read

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if not self.root.exists():
            raise UserError(f"data.root={self.root} does not exist; {WAY_OUT}")
        if not self.root.is_dir() and not self.root.name.lower().endswith(ARCHIVES):
            raise UserError(f"data.root={self.root} is neither a folder nor an archive; {WAY_OUT}")
        try:
            yield
        except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
            raise UserError(f"can't read {self.root}: {error}; make or fetch it again, or {WAY_OUT}") from error


class DrawnCats(Source):
    """Cats drawn by src.data.drawn_cats: no download, and every factor of variation known."""

    def __init__(self, num_images: int, seed: int) -> None:
        if num_images < 1:
            raise UserError(f"num_images={num_images} drawn cats are none; give num_images=1 or more")
        self.num_images = num_images
        self.seed = seed

    @property
    def description(self) -> str:
        return f"{self.num_images:,} drawn cats (embedded; data=cat_faces has real ones)"

    @cached_property
    def factors(self) -> np.ndarray:
        """What was drawn, float32 (N, F)."""
        return draw_factors(np.arange(self.num_images), self.seed)

    def load(self, image_size: int, num_workers: int) -> Pictures:
        images = np.empty((self.num_images, 3, image_size, image_size), np.uint8)

        factors = self.factors

        def draw(start: int) -> int:
            chunk = factors[start : start + 64]
            images[start : start + 64] = draw_cats(chunk, image_size)
            return len(chunk)

        in_threads(draw, range(0, self.num_images, 64), self.num_images, num_workers, "drawing cats")
        names = [f"drawn_{index:05d}" for index in range(self.num_images)]
        return Pictures.of(torch.from_numpy(images), names, factors=torch.from_numpy(factors))


def decode_picture(content: bytes, image_size: int) -> np.ndarray:
    """The upright, centred square of a picture file, Lanczos-resized, alpha over white: uint8 (3, S, S)."""
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as opened:
        image = ImageOps.exif_transpose(opened)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's convert would clip
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB").resize((image_size, image_size), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1)


def in_threads(work: Callable[[Item], int], items: Iterable[Item], total: int, num_workers: int, title: str) -> None:
    """Calls work on every item, a few ahead of the slowest; work returns how many of the total it has done.

    On a terminal a bar is shown after the first second.
    """
    console = Console(stderr=True)
    bar = Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True)
    task = bar.add_task(title, total=total)
    show_at = time.monotonic() + 1
    with ExitStack() as stack:
        for done in _results(work, items, num_workers or os.cpu_count() or 1):
            bar.advance(task, done)
            if console.is_terminal and not bar.live.is_started and time.monotonic() > show_at:
                stack.enter_context(bar)


def _results(work: Callable[[Item], int], items: Iterable[Item], num_threads: int) -> Iterator[int]:
    pending: deque[Future[int]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > 4 * num_threads:
                yield pending.popleft().result()
        for future in pending:
            yield future.result()


def _files(root: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Path inside root, and the reading, of every file; to be read before the next is asked for."""
    if root.is_dir():
        for path in root.rglob("*"):
            if path.is_file():
                yield path.relative_to(root).as_posix(), path.read_bytes
    elif root.name.lower().endswith(".zip"):
        with zipfile.ZipFile(root) as archive:
            for info in archive.infolist():
                yield info.filename, partial(archive.read, info)
    else:
        with tarfile.open(root) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file:
                    yield member.name, file.read


def _picture_name(path: str, subfolder: str) -> str | None:
    """The picture's path below the subfolder; None for what is hidden, no picture or elsewhere."""
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    if hidden or not path.lower().endswith(PICTURES):
        return None
    inside = "/" + "/".join(parts)
    return inside.partition(f"/{subfolder}/")[2] if subfolder else inside[1:]


def _natural(name: str) -> list[str | int]:
    return [int(part) if index % 2 else part for index, part in enumerate(re.split("([0-9]+)", name))]
