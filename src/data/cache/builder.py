"""Decoded images are kept in a cache: built once, in threads, and read from then on by every run, rank and user.

    <cache_dir>/<title>-<size>px-<key>/  one source's images; the key is a digest of their files and of the decoding
        pixels                           uint8 (N, 3, S, S), nothing else
        factors.npy                      float32 (N, F), for images that were drawn
        manifest.json, manifest.sha256   every image, and every file that gave none
    <cache_dir>/known/                   what each source held when it was last read, with its files' sizes and times
    <cache_dir>/locks/                   one process builds, the others wait

Images are decoded again only if names, contents or decoding change: where sizes or times of files have changed, their
digests are compared first. A cache is built in a hidden folder, synced and renamed, so that a killed build leaves
nothing that could be taken for a cache; the next build removes it.
"""

import json
import os
import re
import secrets
import shutil
import sys
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from src.core.errors import UserError
from src.core.files import is_locked, locked, sync_dir, user_cache_dir, write_atomic
from src.core.progress import track
from src.data.archives import natural_order
from src.data.cache.manifest import DAMAGE, FORMAT, read_cache, short_digest, write_manifest
from src.data.dataset import FilePixels, ImageDataset

MAX_UNREADABLE = 0.05  # of all files
OnError = Literal["skip", "stop"]


@dataclass(frozen=True)
class DecodedImage:
    """One image, or the reason why there is none. sha256 is that of its file, in hexadecimal."""

    name: str
    sha256: str
    pixels: np.ndarray | None = None  # uint8 (3, S, S)
    size: tuple[int, int] = (0, 0)  # original width and height
    reason: str = ""
    unreadable: bool = False


class CachedSource(ABC):
    """A source whose images are decoded once and then read from the cache.

    title: the name of the folder, archive or set. identity: where the images come from, whatever is there now.
    on_error: a file that gives no image is left out and listed (skip), or ends the loading (stop).
    """

    title: str
    identity: str
    on_error: OnError = "skip"

    @abstractmethod
    def options(self, image_size: int) -> dict[str, Any]:
        """Return the plain values that decide about pixels besides the files' contents."""

    @abstractmethod
    def state(self) -> str:
        """Return a text that changes whenever the images may have changed, without reading them; empty: not known."""

    @abstractmethod
    def digests(self) -> Iterator[tuple[str, str]]:
        """Yield the name and SHA-256 of everything that there is to decode."""

    @abstractmethod
    def chunks(self) -> tuple[Iterable[Any], int | None]:
        """Return what `decode` takes, a few images each time, and the number of images if it is known by now."""

    @abstractmethod
    def decode(self, chunk: Any, image_size: int) -> list[DecodedImage]:
        """Decode the images of one chunk; called in threads."""

    @abstractmethod
    def columns(self, images: ImageDataset) -> dict[str, np.ndarray]:
        """Return more about each image, int64 (N,); "group" must be among it."""

    def factors(self) -> np.ndarray | None:
        """Return what was drawn, float32 (N, F), in the order of the images."""
        return None

    def load(self, image_size: int, cache_dir: str | Path | None = None) -> ImageDataset:
        """Return the images from the cache (None: in the user's cache), which one process builds if there is none.

        Raises UserError if more than 5% of the files can't be read, any with on_error=stop, or nothing can be written.
        """
        root = Path(cache_dir).expanduser().absolute() if cache_dir else user_cache_dir() / "images"
        cache = ImageCache(self, image_size, root)
        images = cache.find()
        if images is None:
            try:
                cache.lock.parent.mkdir(parents=True, exist_ok=True)
                with locked(cache.lock, f"another process is decoding {self.title}; waiting for it"):
                    images = cache.find(read=True) or cache.build()
            except OSError as error:
                raise UserError(
                    f"can't keep the decoded images in {root}: {error.strerror or error}; make room there or give "
                    "another folder with data.cache_dir=..."
                ) from error
        if self.on_error == "stop" and images.left_out:
            raise cache.stopped(*images.left_out[0])
        return images


class ImageCache:
    """The cache of one source at one size in the folder `root`."""

    def __init__(self, source: CachedSource, image_size: int, root: Path) -> None:
        self.source, self.image_size, self.root = source, image_size, root
        self.options = source.options(image_size) | {"image_size": image_size}
        self.lock = root / "locks" / short_digest(source.identity, sorted(self.options.items()))
        self.record = root / "known" / f"{short_digest(source.identity)}.json"

    def find(self, read: bool = False) -> ImageDataset | None:
        """Return the images if they are there and undamaged, for what the source held when it was last read.

        Where that may have changed since, the source is read again to compare digests, or with read=False none found.
        """
        try:
            record = json.loads(self.record.read_bytes())
            state, content = self.source.state(), record["content"]
            if not state or state != record["state"]:
                if not read:
                    return None
                content = short_digest(sorted(self.source.digests()))
                self.remember(state, content)
            return read_cache(self.folder(content))
        except DAMAGE:  # reported when it is replaced
            return None

    def remember(self, state: str, content: str) -> None:
        """Record what the source holds, and its state before it was read if that is still the same."""
        state = state if state == self.source.state() else ""
        write_atomic(self.record, json.dumps({"source": self.source.identity, "state": state, "content": content}))

    def folder(self, content: str) -> Path:
        title = re.sub(r"[^A-Za-z0-9._-]+", "-", self.source.title).strip(".-")[:60] or "images"
        key = short_digest(FORMAT, content, sorted(self.options.items()))
        return self.root / f"{title}-{self.image_size}px-{key}"

    def build(self) -> ImageDataset:
        """Decode all images and publish them; the lock is held."""
        for leftover in self.root.glob(".building-*"):
            lock = self.lock.with_name(leftover.name.split("-")[1])
            if lock == self.lock or not is_locked(lock):  # its process was killed
                shutil.rmtree(leftover, ignore_errors=True)
        state = self.source.state()
        folder = self.root / f".building-{self.lock.name}-{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            decoded, left_out = self._write_pixels(folder / "pixels")
            content = short_digest(sorted((image.name, image.sha256) for image in [*decoded, *left_out]))
            self._write_manifest(folder, decoded, left_out)
            _publish(folder, self.folder(content))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.remember(state, content)
        return read_cache(self.folder(content))

    def _write_pixels(self, path: Path) -> tuple[list[DecodedImage], list[DecodedImage]]:
        """Write the pixels as they are decoded; return all images without their pixels, and the files without image."""
        decoded, left_out = list[DecodedImage](), list[DecodedImage]()
        chunks, total = self.source.chunks()
        with path.open("wb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's about the files it reads
            for batch in track(self._decode_in_threads(chunks), total, f"decoding {self.source.title}"):
                for image in batch:
                    (left_out if image.pixels is None else decoded).append(replace(image, pixels=None))
                if left_out and self.source.on_error == "stop":
                    raise self.stopped(left_out[0].name, left_out[0].reason)
                # All of a batch at once: each call waits for the threads that decode.
                file.write(b"".join([image.pixels.data for image in batch if image.pixels is not None]))
            file.flush()
            os.fsync(file.fileno())
        unreadable = [image for image in left_out if image.unreadable]
        total = len(decoded) + len(left_out)
        if len(unreadable) > MAX_UNREADABLE * total or not decoded:
            shown = unreadable if decoded else left_out
            examples = "; ".join(f"{image.name} ({image.reason})" for image in shown[:5])
            raise UserError(
                f"can't use {len(shown)} of {total} images of {self.source.title}, and at most {MAX_UNREADABLE:.0%} "
                f"are left out: {examples}; fix or remove them"
            )
        return decoded, left_out

    def _decode_in_threads(self, chunks: Iterable[Any]) -> Iterator[list[DecodedImage]]:
        """Yield the decoded chunks, in order, computed a few ahead by as many threads as there are cores."""
        num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        pending: deque[Future[list[DecodedImage]]] = deque()
        with ThreadPoolExecutor(num_threads) as pool:
            try:
                for chunk in chunks:
                    pending.append(pool.submit(self.source.decode, chunk, self.image_size))
                    if len(pending) > 4 * num_threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def stopped(self, name: str, reason: str) -> UserError:
        advice = "fix or remove it, or leave it out with data.on_error=skip"
        return UserError(f"can't read {name} of {self.source.title}: {reason}; {advice}")

    def _write_manifest(self, folder: Path, decoded: list[DecodedImage], left_out: list[DecodedImage]) -> None:
        rows = sorted(range(len(decoded)), key=lambda row: natural_order(decoded[row].name))
        images = [decoded[row] for row in rows]
        names, order = [image.name for image in images], torch.tensor(rows)
        pixels = FilePixels(folder / "pixels", (len(rows), 3, self.image_size, self.image_size), "")
        more = self.source.columns(ImageDataset(pixels, order, names, order))
        reasons = sorted((image.name, image.reason) for image in left_out)
        head = {"source": self.source.identity, "options": self.options, "left_out": reasons}
        columns: dict[str, list[Any]] = {
            "name": names,
            "sha256": [image.sha256 for image in images],
            "size": [image.size for image in images],
            "row": rows,
        }
        columns |= {name: values.tolist() for name, values in more.items()}
        write_manifest(folder, head, columns, self.source.factors())


def _publish(folder: Path, target: Path) -> None:
    """Rename a finished folder; one that is already there stays if it is whole, and is replaced if it is damaged."""
    sync_dir(folder)
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise
        try:
            read_cache(target)  # the same images elsewhere, decoded by another process
        except DAMAGE as error:
            print(f"the decoded images in {target} were damaged ({error}) and have been rebuilt", file=sys.stderr)
            shutil.rmtree(target)
            os.rename(folder, target)
    sync_dir(target.parent)
