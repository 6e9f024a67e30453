"""Decoded images are kept in a cache: built once, in threads, and read from then on by every run, rank and user.

The files of a cache, what rebuilds it, and what a killed build leaves: docs/data.md.
"""

import errno
import os
import re
import secrets
import shutil
import sys
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.core.errors import UserError
from src.core.files import locked, sync_dir, user_cache_dir
from src.core.progress import track
from src.data.archives import ImageFile, UnusableSource
from src.data.cache.manifest import DAMAGE, FORMAT, NO_CAT, DecodedImage, read_cache, short_digest, write_manifest
from src.data.dataset import ImageDataset

MAX_UNREADABLE = 0.05  # of all files
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
READ_AHEAD = 2**26  # bytes of files that are read and not yet decoded; a larger file goes alone
OnError = Literal["skip", "stop"]


class CachedSource(ABC):
    """A source whose images are decoded once and then read from the cache.

    description: a line for the screen that says what is read, and from where. title: the name of the folder, archive or
    set. identity: where the images come from, whatever is there now. on_error: a file that gives no image is left out
    and listed (skip), or ends the loading (stop). unread: how many of the files last listed have which ending that is
    not read.
    """

    description: str
    title: str
    identity: str
    on_error: OnError = "skip"
    unread: Mapping[str, int] = {}
    chunk = 16  # files that a thread decodes at a time

    @abstractmethod
    def options(self, image_size: int) -> dict[str, Any]:
        """Return image_size and the other plain values that decide about pixels besides the files' contents."""

    def state(self) -> str:
        """Return a text that changes whenever the images may have changed, without reading them."""
        return self.identity

    @abstractmethod
    def files(self) -> Iterable[ImageFile]:
        """Return everything that there is to decode: a list where that is known without reading it."""

    @abstractmethod
    def decode(self, files: list[ImageFile], image_size: int) -> list[DecodedImage]:
        """Decode a few files; called in threads."""

    def columns(self, images: ImageDataset) -> dict[str, np.ndarray]:
        """Return more about each image, int64 (N,), "group" among it: by default no image is a copy of another."""
        return {"group": np.arange(len(images))}

    def load(self, image_size: int, cache_dir: str | Path | None = None) -> ImageDataset:
        """Return the images from the cache (None: in the user's cache), which one process builds if there is none.

        Where the user may not write to cache_dir, what is there is read, and what is not is built in the user's cache.
        Raises UserError if more than 5% of the files can't be read, any with on_error=stop, or nothing can be written.
        """
        root = Path(cache_dir).expanduser().absolute() if cache_dir else user_cache_dir() / "images"
        cache = ImageCache(self, image_size, root)
        try:
            images = cache.find() or cache.find_or_build()
        except OSError as error:
            if cache_dir and error.errno in NOT_WRITABLE:
                own = user_cache_dir() / "images"
                print(f"{root} is not yours to write to: decoded images are kept in {own}", file=sys.stderr)
                return CachedSource.load(self, image_size)  # a subclass makes its own of either
            raise UserError(
                f"can't keep the decoded images in {root}: {error.strerror or error}; make room there or give "
                "another folder with data.cache_dir=..."
            ) from error
        damaged = [(name, reason) for name, reason in images.left_out if not reason.startswith(NO_CAT)]
        if self.on_error == "stop" and damaged:
            name, reason = damaged[0]
            raise UserError(
                f"can't read {name} of {self.title}: {reason}; fix or remove it (all such files are listed in "
                f"{images.manifest}), or leave it out with data.on_error=skip"
            )
        return images


class ImageCache:
    """The cache of one source at one size in the folder `root`."""

    def __init__(self, source: CachedSource, image_size: int, root: Path) -> None:
        self.source, self.image_size, self.options = source, image_size, source.options(image_size)
        key = short_digest(FORMAT, source.identity, sorted(self.options.items()))
        self.lock, self.building = root / "locks" / key, f".building-{key}-"
        title = re.sub(r"[^A-Za-z0-9._-]+", "-", source.title).strip(".-")[:60] or "images"
        # The state is looked at before anything is read: images that change later are another state.
        self.folder = root / f"{title}-{image_size}px-{key[:8]}-{short_digest(key, source.state())[:24]}"

    def find(self) -> ImageDataset | None:
        """Return the images if they are there, undamaged."""
        try:
            return read_cache(self.folder)
        except DAMAGE:  # reported when it is replaced
            return None

    def find_or_build(self) -> ImageDataset:
        """Return the images from a cache that no other process is building. Raises OSError where one can't be built."""
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.lock, f"another process is decoding {self.source.title}; waiting for it"):
            return self.find() or self.build()

    def build(self) -> ImageDataset:
        """Decode all images, in a folder that is renamed when it is complete; the lock is held."""
        root = self.folder.parent
        for leftover in root.glob(f"{self.building}*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        folder = root / f"{self.building}{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            decoded, left_out = self._write_pixels(folder / "pixels")
            reasons = sorted((image.name, image.reason) for image in left_out)
            heads = sorted(row for image in [*decoded, *left_out] for row in image.heads)
            head = {"source": self.source.identity, "options": self.options, "left_out": reasons}
            head |= {"unread": self.source.unread, "heads": heads}
            write_manifest(folder, head, decoded, self.source.columns)
            sync_dir(folder)
            if self.folder.exists():
                print(f"the decoded images in {self.folder} were damaged and have been rebuilt", file=sys.stderr)
                shutil.rmtree(self.folder)
            os.rename(folder, self.folder)
            sync_dir(root)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if older := sorted(map(str, {*root.glob(f"{self.folder.name[:-24]}*")} - {self.folder})):
            print(f"of an earlier state of these images, to be deleted if no run reads it: {', '.join(older)}")
        return read_cache(self.folder)

    def _write_pixels(self, path: Path) -> tuple[list[DecodedImage], list[DecodedImage]]:
        """Write the pixels as they are decoded; return all images without their pixels, and the files without image."""
        decoded, left_out, unreadable = list[DecodedImage](), list[DecodedImage](), list[DecodedImage]()
        files, seen = self.source.files(), 0
        count = len(files) if isinstance(files, list) else None
        with path.open("wb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's about the files it reads
            batches = self._decode_in_threads(files)
            for num_files, batch in track(batches, count, f"decoding {self.source.title}", itemgetter(0)):
                seen += num_files
                for image in batch:
                    (left_out if image.pixels is None else decoded).append(replace(image, pixels=None))
                unreadable += [image for image in batch if image.unreadable]
                if count and len(unreadable) > MAX_UNREADABLE * count:
                    break
                # All of a batch at once: each call waits for the threads that decode.
                file.write(b"".join([image.pixels.data for image in batch if image.pixels is not None]))
            file.flush()
            os.fsync(file.fileno())
        total = max(seen, count or 0)
        if len(unreadable) > MAX_UNREADABLE * total or not decoded:
            shown = unreadable if decoded or seen < total else left_out
            examples = "; ".join(f"{image.name} ({image.reason})" for image in shown[:5])
            raise UnusableSource(
                f"can't use {'at least ' if seen < total else ''}{len(shown)} of {total} images of "
                f"{self.source.title}, and at most {MAX_UNREADABLE:.0%} are left out: {examples}; fix or remove them"
            )
        return decoded, left_out

    def _decode_in_threads(self, files: Iterable[ImageFile]) -> Iterator[tuple[int, list[DecodedImage]]]:
        """Yield a number of files and their images, in order, decoded ahead by as many threads as there are cores."""

        def decode(chunk: list[ImageFile]) -> tuple[int, list[DecodedImage]]:
            return len(chunk), self.source.decode(chunk, self.image_size)

        num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        pending: deque[tuple[Future[tuple[int, list[DecodedImage]]], int]] = deque()
        with ThreadPoolExecutor(num_threads) as pool:
            try:
                for chunk, size in chunks(files, self.source.chunk, READ_AHEAD // (4 * num_threads)):
                    pending.append((pool.submit(decode, chunk), size))
                    while len(pending) > 4 * num_threads or sum(held for _, held in pending) > READ_AHEAD:
                        yield pending.popleft()[0].result()
                while pending:
                    yield pending.popleft()[0].result()
            finally:
                pool.shutdown(cancel_futures=True)


def chunks(files: Iterable[ImageFile], max_files: int, max_bytes: int) -> Iterator[tuple[list[ImageFile], int]]:
    """Group files, and give the bytes of each group: at most max_bytes and one file more."""
    chunk, size = list[ImageFile](), 0
    for file in files:
        chunk.append(file)
        size += file.size
        if len(chunk) == max_files or size >= max_bytes:
            yield chunk, size
            chunk, size = [], 0
    if chunk:
        yield chunk, size
