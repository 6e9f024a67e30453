"""What lies in a store's folder: written once, checked whenever it is opened."""

import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.core.files import file_sha256, write_atomic
from src.data.dataset import ImageDataset, StoredPixels

DAMAGE = (OSError, ValueError, LookupError, TypeError)  # what reading raises that is not whole


@dataclass
class Manifest:
    """What a store holds, in the order of its images."""

    names: list[str]
    digests: list[str]
    sizes: list[tuple[int, int]]
    rows: list[int]
    columns: dict[str, list[int]]
    left_out: list[tuple[str, str]]
    about: dict[str, Any] = field(default_factory=dict)

    HEAD = ("name", "sha256", "width", "height", "row")

    def write(self, folder: Path) -> None:
        columns = zip(*self.columns.values(), strict=True) if self.columns else [()] * len(self.names)
        lines = [
            json.dumps([name, digest, *size, row, *others])
            for name, digest, size, row, others in zip(
                self.names, self.digests, self.sizes, self.rows, columns, strict=True
            )
        ]
        head = self.about | {"left_out": self.left_out, "columns": [*self.HEAD, *self.columns]}
        text = json.dumps(head, indent=1)[:-2] + ',\n "images": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
        write_atomic(folder / "manifest.json", text.encode(), sync=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        write_atomic(folder / "manifest.sha256", f"{digest}  manifest.json\n".encode(), sync=True)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """ValueError: damaged."""
        content = (folder / "manifest.json").read_bytes()
        if (folder / "manifest.sha256").read_text().split()[:1] != [hashlib.sha256(content).hexdigest()]:
            raise ValueError("manifest.json has changed")
        about = json.loads(content)
        names, digests, widths, heights, rows, *others = zip(*about.pop("images"), strict=True)
        columns = dict(zip(about.pop("columns")[len(cls.HEAD) :], map(list, others), strict=True))
        sizes = list(zip(widths, heights, strict=True))
        left_out = [(name, reason) for name, reason in about.pop("left_out")]
        return cls(list(names), list(digests), sizes, list(rows), columns, left_out, about)


def open_folder(folder: Path) -> ImageDataset:
    """Raises one of DAMAGE."""
    manifest = Manifest.read(folder)
    size = manifest.about["image_size"]
    pixels = StoredPixels(
        folder / "pixels",
        (len(manifest.names), 3, size, size),
        short_digest(manifest.about["format"], sorted(manifest.about["options"].items())),
    )
    stat = os.stat(folder / "pixels")
    num_bytes = math.prod(pixels.shape)
    if stat.st_size != num_bytes:
        raise ValueError(f"{stat.st_size} bytes instead of {num_bytes}")
    # Hashing all of it takes its time; nobody writes to it, so its time tells.
    if stat.st_mtime_ns != manifest.about["modified_ns"] and file_sha256(pixels.path) != manifest.about["sha256"]:
        raise ValueError("the pixels have changed")
    factors = None
    if manifest.about["factors_sha256"]:
        if file_sha256(folder / "factors.npy") != manifest.about["factors_sha256"]:
            raise ValueError("factors.npy has changed")
        factors = torch.from_numpy(np.load(folder / "factors.npy"))
    columns = {name: torch.tensor(values) for name, values in manifest.columns.items()}
    columns["size"] = torch.tensor(manifest.sizes)
    origins = bytearray.fromhex("".join(manifest.digests))
    columns["sha256"] = torch.frombuffer(origins, dtype=torch.uint8).view(-1, 32)
    return ImageDataset(
        pixels,
        torch.tensor(manifest.rows),
        manifest.names,
        columns.pop("group"),
        factors,
        columns,
        left_out=tuple(manifest.left_out),
        manifest=folder / "manifest.json",
    )


def short_digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
