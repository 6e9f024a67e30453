"""Decoded images, kept: made once, in parallel, and read by every run, process and user from then on.

    <cache_dir>/<title>-<size>px-<key>/  one store; the key is of the images' contents and of how they are decoded
        pixels                           uint8 (N, 3, S, S), nothing else
        factors.npy                      float32 (N, F), where the source knows what it drew
        manifest.json, manifest.sha256   every image, and every file that gave none
    <cache_dir>/known/                   what each source held when it was last read, by its files' sizes and times
    <cache_dir>/locks/                   one builder of a store at a time

A store is made anew when and only when names, contents or decoding change: where sizes or times of files have changed,
their contents are read and compared, not decoded. It is built in a hidden folder and renamed when it is whole, so a
killed build leaves nothing that is taken for a store; the next build sweeps it away.
"""

import hashlib
import io
import os
import re
import secrets
import shutil
import sys
import warnings
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from src.core.errors import UserError
from src.core.files import file_sha256, is_locked, locked, sync_dir, user_cache_dir, write_atomic
from src.core.progress import track
from src.data.cache.manifest import DAMAGE, Manifest, open_folder
from src.data.cache.parallel import in_threads
from src.data.cache.spec import (
    FORMAT,
    Made,
    Recipe,
    content_of,
    known_content,
    lock_id,
    read_content,
    remember,
    store_key,
)
from src.data.dataset import ImageDataset, StoredPixels

MOST_UNREADABLE = 0.05
EXAMPLES = 5

OnError = Literal["skip", "stop"]


def open_cache(recipe: Recipe, cache_dir: str | Path | None = None, on_error: OnError = "skip") -> ImageDataset:
    """The recipe's images, from the store; built first if there is none, by one process while the others wait.

    on_error=stop: no image may be left out. UserError: more than 5% can't be read, or the store can't be written.
    """
    root = Path(cache_dir).expanduser().absolute() if cache_dir else user_cache_dir() / "store"
    images = _find(recipe, root, known_content(recipe, root))
    if images is None:
        try:
            (root / "locks").mkdir(parents=True, exist_ok=True)
            message = f"another process is decoding {recipe.title}; waiting for it"
            with locked(root / "locks" / lock_id(recipe), message):
                images = _find(recipe, root, read_content(recipe, root)) or _build(recipe, root, on_error)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"can't keep the decoded images in {root}: {reason}; make room there or give another folder with "
                "data.cache_dir=..."
            ) from error
    if on_error == "stop" and images.left_out:
        raise _stopped(recipe, *images.left_out[0])
    return images


def _folder(recipe: Recipe, root: Path, content: str) -> Path:
    title = re.sub(r"[^A-Za-z0-9._-]+", "-", recipe.title).strip(".-") or "images"
    return root / f"{title[:60]}-{recipe.image_size}px-{store_key(recipe, content)}"


def _find(recipe: Recipe, root: Path, content: str | None) -> ImageDataset | None:
    """The store of this content, if it is there and whole."""
    if content is None:
        return None
    try:
        return open_folder(_folder(recipe, root, content))
    except DAMAGE:  # told when it is replaced
        return None


def _build(recipe: Recipe, root: Path, on_error: OnError) -> ImageDataset:
    """Makes the store and publishes it; the lock is held."""
    _sweep(root, lock_id(recipe))
    state = recipe.state()
    folder = root / f".building-{lock_id(recipe)}-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        manifest, content = _fill(recipe, folder, on_error)
        manifest.write(folder)
        target = _folder(recipe, root, content)
        _publish(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    remember(recipe, root, state, content)
    return open_folder(target)


def _fill(recipe: Recipe, folder: Path, on_error: OnError) -> tuple[Manifest, str]:
    """Writes the pixels; returns the manifest and what the source held."""
    made: list[Made] = []
    left_out: list[Made] = []
    sha256 = hashlib.sha256()
    work, items, total = recipe.work()
    with (folder / "pixels").open("wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on what it reads
        for batch in track(in_threads(work, items), total, f"decoding {recipe.title}"):
            pixels: list[memoryview] = []
            for image in batch:
                if image.pixels is None:
                    left_out.append(image)
                    if on_error == "stop":
                        raise _stopped(recipe, image.name, image.reason)
                    continue
                pixels.append(image.pixels.data)
                made.append(Made(image.name, image.digest, None, image.size))
            # All of a batch at once: each call waits for the threads that decode.
            together = b"".join(pixels)
            file.write(together)
            sha256.update(together)
        file.flush()
        os.fsync(file.fileno())
    _check_unreadable(recipe, left_out, len(made))

    order = sorted(range(len(made)), key=lambda row: recipe.sorted_by(made[row].name))
    names = [made[row].name for row in order]
    stored = StoredPixels(folder / "pixels", (len(made), 3, recipe.image_size, recipe.image_size), "")
    columns = recipe.columns(cast(np.ndarray, _Rows(stored, order)), names)
    factors = recipe.factors()
    if factors is not None:
        array = io.BytesIO()
        np.save(array, factors)
        write_atomic(folder / "factors.npy", array.getvalue(), sync=True)
    about = {
        "format": FORMAT,
        "of": recipe.identity,
        "options": dict(recipe.options),
        "image_size": recipe.image_size,
        "sha256": sha256.hexdigest(),
        "modified_ns": os.stat(folder / "pixels").st_mtime_ns,
        "factors_sha256": file_sha256(folder / "factors.npy") if factors is not None else None,
    }
    manifest = Manifest(
        names,
        [made[row].digest for row in order],
        [made[row].size for row in order],
        order,
        {name: values.tolist() for name, values in columns.items()},
        sorted((image.name, image.reason) for image in left_out),
        about,
    )
    return manifest, content_of((image.name, image.digest) for image in [*made, *left_out])


class _Rows:
    """Stored pixels in another order, read slice by slice as if they were an array."""

    def __init__(self, pixels: StoredPixels, order: list[int]) -> None:
        self.pixels, self.order = pixels, torch.tensor(order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, positions: slice | np.ndarray) -> np.ndarray:
        return self.pixels.gather(self.order[positions]).numpy()


def _stopped(recipe: Recipe, name: str, reason: str) -> UserError:
    return UserError(
        f"can't read {name} of {recipe.title}: {reason}; mend or remove it, or leave it out with data.on_error=skip"
    )


def _check_unreadable(recipe: Recipe, left_out: list[Made], num_made: int) -> None:
    unreadable = [image for image in left_out if image.unreadable]
    total = num_made + len(left_out)
    shown = unreadable if len(unreadable) > MOST_UNREADABLE * total else left_out if not num_made else []
    if shown:
        examples = "; ".join(f"{image.name} ({image.reason})" for image in shown[:EXAMPLES])
        raise UserError(
            f"can't use {len(shown)} of {total} images of {recipe.title}, and at most {MOST_UNREADABLE:.0%} are left "
            f"out: {examples}; mend or remove them"
        )


def _publish(folder: Path, target: Path) -> None:
    sync_dir(folder)
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise
        try:
            open_folder(target)  # somebody else has made it, from the same images elsewhere
        except DAMAGE as error:
            print(f"the decoded images in {target} were damaged ({error}) and are made anew", file=sys.stderr)
            damaged = folder.with_name(f"{folder.name}-damaged")
            os.rename(target, damaged)
            os.rename(folder, target)
            shutil.rmtree(damaged, ignore_errors=True)
    sync_dir(target.parent)


def _sweep(root: Path, own_lock_id: str) -> None:
    """Removes what killed builds have left: that whose lock nobody else holds."""
    for leftover in root.glob(".building-*"):
        builder = leftover.name.split("-")[1]
        if builder == own_lock_id or not is_locked(root / "locks" / builder):
            shutil.rmtree(leftover, ignore_errors=True)
