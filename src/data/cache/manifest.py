"""The files of one cache: written once beside the pixels, and checked whenever the cache is opened."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.core.files import file_sha256, natural_order, write_atomic
from src.data.dataset import FilePixels, ImageDataset

FORMAT = 2  # to be raised when what is kept changes its meaning
NO_CAT = "no cat's head found"  # a reason that is no damage
DAMAGE = (OSError, ValueError, LookupError, TypeError)  # raised by reading what is incomplete or has changed


@dataclass(frozen=True)
class DecodedImage:
    """One image, or the reason why there is none. sha256 is that of its file, in hexadecimal.

    heads: rows of heads.csv, at the first image of a file.
    """

    name: str
    sha256: str
    pixels: np.ndarray | None = None  # uint8 (3, S, S)
    size: tuple[int, int] = (0, 0)  # original width and height
    reason: str = ""
    unreadable: bool = False
    heads: tuple[tuple[Any, ...], ...] = ()


def write_manifest(
    folder: Path,
    head: dict[str, Any],
    decoded: list[DecodedImage],
    describe: Callable[[ImageDataset], dict[str, np.ndarray]],
) -> None:
    """Write manifest.json and its digest beside the pixels.

    head: source, options, left_out (names and reasons), unread and heads. describe: columns of a CachedSource.
    """
    rows = sorted(range(len(decoded)), key=lambda row: natural_order(decoded[row].name))
    images, size = [decoded[row] for row in rows], head["options"]["image_size"]
    names, order = [image.name for image in images], torch.tensor(rows)
    pixels = FilePixels(folder / "pixels", (len(rows), 3, size, size), "")
    columns = {
        "name": names,
        "sha256": [image.sha256 for image in images],
        "size": [image.size for image in images],
        "row": rows,  # the position in the pixels
    }
    more = describe(ImageDataset(pixels, order, names, order))
    columns |= {name: values.tolist() for name, values in more.items()}
    head |= {
        "format": FORMAT,
        "pixels_sha256": file_sha256(pixels.path),
        "modified_ns": os.stat(pixels.path).st_mtime_ns,
        "columns": list(columns),
    }
    lines = ",\n  ".join(map(json.dumps, zip(*columns.values(), strict=True)))
    text = f'{json.dumps(head, indent=1)[:-2]},\n "images": [\n  {lines}\n ]\n}}\n'
    write_atomic(folder / "manifest.json", text, sync=True)
    write_atomic(folder / "manifest.sha256", f"{file_sha256(folder / 'manifest.json')}  manifest.json\n", sync=True)


def read_cache(folder: Path) -> ImageDataset:
    """Return the images of a cache's folder. Raises one of DAMAGE."""
    digest = f"{file_sha256(folder / 'manifest.json')}  manifest.json"
    if digest not in (folder / "manifest.sha256").read_text().splitlines():
        raise ValueError("manifest.json has changed")
    head = json.loads((folder / "manifest.json").read_bytes())
    columns = dict(zip(head["columns"], map(list, zip(*head["images"], strict=True)), strict=True))
    names, size, path = columns.pop("name"), head["options"]["image_size"], folder / "pixels"
    shape, stat = (len(names), 3, size, size), os.stat(path)
    if stat.st_size != math.prod(shape):
        raise ValueError(f"{stat.st_size} bytes instead of {math.prod(shape)}")
    # Hashing everything takes long; nobody writes to the file, so its time tells.
    if stat.st_mtime_ns != head["modified_ns"] and file_sha256(path) != head["pixels_sha256"]:
        raise ValueError("the pixels have changed")
    sha256 = torch.frombuffer(bytearray.fromhex("".join(columns.pop("sha256"))), dtype=torch.uint8).view(-1, 32)
    tensors = {name: torch.tensor(values) for name, values in columns.items()} | {"sha256": sha256}
    return ImageDataset(
        FilePixels(path, shape, short_digest(head["format"], sorted(head["options"].items()))),
        tensors.pop("row"),
        names,
        tensors.pop("group"),
        columns=tensors,
        left_out=tuple((name, reason) for name, reason in head["left_out"]),
        manifest=folder / "manifest.json",
        unread=head.get("unread", {}),
    )


def short_digest(*parts: Any) -> str:
    """Return 32 hexadecimal digits that identify plain values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
