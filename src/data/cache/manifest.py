"""The files of one cache: written once beside the pixels, and checked whenever the cache is opened."""

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.core.files import file_sha256, write_atomic
from src.data.dataset import FilePixels, ImageDataset

FORMAT = 1  # to be raised when what is kept changes its meaning
DAMAGE = (OSError, ValueError, LookupError, TypeError)  # raised by reading what is incomplete or has changed


def write_manifest(
    folder: Path, head: dict[str, Any], columns: Mapping[str, list[Any]], factors: np.ndarray | None
) -> None:
    """Write manifest.json, its digest, and factors.npy beside the pixels, all synced to the disk.

    head: source, options and left_out (names and reasons). columns: name, sha256, size (original width and
    height), row (the position in the pixels), group and more, each a list in the order of the images.
    """
    if factors is not None:
        array = io.BytesIO()
        np.save(array, factors)
        write_atomic(folder / "factors.npy", array.getvalue(), sync=True)
    head |= {
        "format": FORMAT,
        "pixels_sha256": file_sha256(folder / "pixels"),
        "modified_ns": os.stat(folder / "pixels").st_mtime_ns,
        "factors_sha256": None if factors is None else file_sha256(folder / "factors.npy"),
        "columns": list(columns),
    }
    lines = ",\n  ".join(map(json.dumps, zip(*columns.values(), strict=True)))
    text = f'{json.dumps(head, indent=1)[:-2]},\n "images": [\n  {lines}\n ]\n}}\n'
    write_atomic(folder / "manifest.json", text, sync=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomic(folder / "manifest.sha256", f"{digest}  manifest.json\n", sync=True)


def read_cache(folder: Path) -> ImageDataset:
    """Return the images of a cache's folder. Raises one of DAMAGE."""
    content = (folder / "manifest.json").read_bytes()
    if (folder / "manifest.sha256").read_text().split()[:1] != [hashlib.sha256(content).hexdigest()]:
        raise ValueError("manifest.json has changed")
    head = json.loads(content)
    columns = dict(zip(head["columns"], map(list, zip(*head["images"], strict=True)), strict=True))
    names, size, path = columns.pop("name"), head["options"]["image_size"], folder / "pixels"
    shape, stat = (len(names), 3, size, size), os.stat(path)
    if stat.st_size != math.prod(shape):
        raise ValueError(f"{stat.st_size} bytes instead of {math.prod(shape)}")
    # Hashing everything takes long; nobody writes to the file, so its time tells.
    if stat.st_mtime_ns != head["modified_ns"] and file_sha256(path) != head["pixels_sha256"]:
        raise ValueError("the pixels have changed")
    factors = None
    if head["factors_sha256"]:
        if file_sha256(folder / "factors.npy") != head["factors_sha256"]:
            raise ValueError("factors.npy has changed")
        factors = torch.from_numpy(np.load(folder / "factors.npy"))
    sha256 = torch.frombuffer(bytearray.fromhex("".join(columns.pop("sha256"))), dtype=torch.uint8).view(-1, 32)
    tensors = {name: torch.tensor(values) for name, values in columns.items()}
    tensors["sha256"] = sha256
    return ImageDataset(
        FilePixels(path, shape, short_digest(head["format"], sorted(head["options"].items()))),
        tensors.pop("row"),
        names,
        tensors.pop("group"),
        factors,
        tensors,
        left_out=tuple((name, reason) for name, reason in head["left_out"]),
        manifest=folder / "manifest.json",
    )


def short_digest(*parts: Any) -> str:
    """Return 32 hexadecimal digits that identify plain values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
