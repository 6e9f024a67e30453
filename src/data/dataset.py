"""Images of a source, looked at without being loaded: by position, whole groups, in batches."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from src.core.errors import UserError


class Pixels(Protocol):
    """uint8 images (N, 3, S, S), in memory or in a file.

    digest: stands for all of them, or for how they were made where Images.columns has sha256, their origins.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def digest(self) -> str: ...

    def gather(self, rows: Tensor) -> Tensor:
        """These images, int64 (M,) -> uint8 (M, 3, S, S): a copy."""


class MemoryPixels:
    """A tensor's images."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.shape = images, tuple(images.shape)

    @cached_property
    def digest(self) -> str:
        sha256 = hashlib.sha256(repr(self.shape).encode())
        sha256.update(self.images.contiguous().numpy().data)
        return sha256.hexdigest()

    def gather(self, rows: Tensor) -> Tensor:
        return self.images[rows]


class StoredPixels:
    """Those of a file that holds nothing else.

    Read, not mapped: pages of a mapped file count as the process's memory, all of them after one epoch.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], digest: str) -> None:
        self.path, self.shape, self.digest = path, shape, digest
        self.image_bytes = math.prod(shape[1:])
        self._file = path.open("rb", buffering=0)

    def gather(self, rows: Tensor) -> Tensor:
        images = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8)
        memory, size, descriptor = images.view(-1).numpy().data, self.image_bytes, self._file.fileno()
        received = 0
        for start, row in enumerate(rows.tolist()):
            received += os.preadv(descriptor, [memory[start * size : (start + 1) * size]], row * size)
        if received != len(memory):
            raise UserError(f"{self.path} has been cut short; run again, and it is made anew")
        return images

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._file = self.path.open("rb", buffering=0)


@dataclass(frozen=True)
class ImageDataset:
    """A choice of a source's images; nothing is copied but what is asked for.

    len(images)               N
    images[positions]         uint8 (M, 3, S, S): a slice, a list or an int64 tensor of positions below N
    images.batches(64)        all of them in turn, uint8 (at most 64, 3, S, S)
    images.select(positions)  these of them, as Images
    names                       N, in the same order
    groups                      int64 (N,): equal where images are near-duplicates of each other
    factors                     float32 (N, F) where the source knows what it drew
    columns                     more of each image: size (N, 2), its width and height as it was; sha256 (N, 32); ...
    left_out                    names and reasons of what could not be used; of the whole source, listed in `manifest`
    digest                      stands for names and pixels, and for their order
    """

    pixels: Pixels
    rows: Tensor  # int64 (N,), which of the pixels
    names: list[str]
    groups: Tensor
    factors: Tensor | None = None
    columns: dict[str, Tensor] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()
    manifest: Path | None = None

    @classmethod
    def of(
        cls, images: Tensor, names: Sequence[str], groups: Tensor | None = None, factors: Tensor | None = None
    ) -> "ImageDataset":
        """All images of a tensor, uint8 (N, 3, S, S); without groups each is alone in its own."""
        rows = torch.arange(len(images))
        return cls(MemoryPixels(images), rows, list(names), rows if groups is None else groups, factors)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: slice | Sequence[int] | Tensor) -> Tensor:
        return self.pixels.gather(self.rows[positions])

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        for start in range(0, len(self), batch_size):
            yield self[start : start + batch_size]

    def select(self, positions: slice | Sequence[int] | Tensor) -> "ImageDataset":
        chosen = torch.arange(len(self))[positions]
        return ImageDataset(
            self.pixels,
            self.rows[chosen],
            [self.names[position] for position in chosen.tolist()],
            self.groups[chosen],
            None if self.factors is None else self.factors[chosen],
            {name: values[chosen] for name, values in self.columns.items()},
            self.left_out,
            self.manifest,
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the names, of each image's origin, and of what the pixels stand for."""
        sha256 = hashlib.sha256(repr((self.names, self.pixels.digest)).encode())
        sha256.update(self.columns.get("sha256", self.rows).contiguous().numpy().data)
        return sha256.hexdigest()


def split(images: ImageDataset, val_fraction: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation images, each in their first order; the same seed gives the same split.

    No group stands on both sides; as nearly val_fraction of the images are held out as that allows.
    """
    groups = torch.unique(images.groups, return_inverse=True)[1]
    sizes = torch.bincount(groups).tolist() if len(groups) else []
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed)).tolist()
    room = round(len(images) * val_fraction)
    held_out = torch.zeros(len(sizes), dtype=torch.bool)
    for group in order:
        if sizes[group] <= room:
            held_out[group] = True
            room -= sizes[group]
    # One more may come nearer than none.
    left = [group for group in order if not held_out[group]]
    smallest = min(left, key=sizes.__getitem__, default=None)
    if room and len(left) > 1 and smallest is not None and sizes[smallest] < 2 * room:
        held_out[smallest] = True
    in_val = held_out[groups]
    return images.select((~in_val).nonzero()[:, 0]), images.select(in_val.nonzero()[:, 0])
