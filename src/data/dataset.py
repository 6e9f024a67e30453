"""Images that are looked at without being loaded: by position, in batches, in selections, and split by groups."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.core.errors import UserError

Positions = slice | Sequence[int] | np.ndarray | Tensor


class FilePixels:
    """uint8 images (N, 3, S, S) of a file that holds nothing else; pixels[rows] reads some, as of a tensor.

    They are read, not mapped: mapped pages count as memory of the process, and after one epoch that would be all.
    digest identifies how they were made, of the files whose sha256 is in ImageDataset.columns.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], digest: str) -> None:
        self.path, self.shape, self.digest = path, shape, digest
        self._file = path.open("rb", buffering=0)

    def __getitem__(self, rows: Tensor) -> Tensor:
        images = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8)
        memory, size = images.view(-1).numpy().data, math.prod(self.shape[1:])
        received = 0
        for start, row in enumerate(rows.tolist()):
            image = memory[start * size : (start + 1) * size]
            if hasattr(os, "preadv"):  # forked workers share the position in the file
                received += os.preadv(self._file.fileno(), [image], row * size)
            else:
                self._file.seek(row * size)
                received += self._file.readinto(image)
        if received != len(memory):
            raise UserError(f"{self.path} has been cut short; run again, and it is rebuilt")
        return images

    def __reduce__(self) -> tuple[Any, ...]:  # another process opens the file itself
        return FilePixels, (self.path, self.shape, self.digest)


@dataclass(frozen=True)
class ImageDataset:
    """Some of a source's images; nothing is copied until it is asked for.

    len(images)               N
    images[positions]         uint8 (M, 3, S, S): a slice, a list or an int64 tensor of positions below N
    images.batches(64)        all of them in turn, uint8 (at most 64, 3, S, S)
    images.select(positions)  some of them, as an ImageDataset
    names                     N, in the same order
    groups                    int64 (N,): equal where images are near-duplicates of each other
    factors                   float32 (N, F), for images that were drawn
    columns                   more about each image: size (N, 2), its original width and height; sha256 (N, 32); ...
    left_out                  names and reasons of all files of the source that gave no image, listed in `manifest`
    unread                    how many files of the source have which ending that is not read
    digest                    identifies names and pixels, and their order
    """

    pixels: Tensor | FilePixels
    rows: Tensor  # int64 (N,): which of the pixels
    names: list[str]
    groups: Tensor
    factors: Tensor | None = None
    columns: dict[str, Tensor] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()
    manifest: Path | None = None
    unread: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Positions) -> Tensor:
        return self.pixels[self.rows[positions]]

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        for start in range(0, len(self), batch_size):
            yield self[start : start + batch_size]

    def select(self, positions: Positions) -> "ImageDataset":
        selected = torch.arange(len(self))[positions]
        return replace(
            self,
            rows=self.rows[selected],
            names=[self.names[position] for position in selected.tolist()],
            groups=self.groups[selected],
            factors=None if self.factors is None else self.factors[selected],
            columns={name: values[selected] for name, values in self.columns.items()},
        )

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of names and pixels, or of the files that these were made of and how, in hexadecimal."""
        if isinstance(self.pixels, FilePixels):
            origin, content = self.pixels.digest, self.columns["sha256"]
        else:
            origin, content = str(self.pixels.shape[1:]), self[:]
        sha256 = hashlib.sha256(repr((self.names, origin)).encode())
        sha256.update(content.contiguous().numpy().data)
        return sha256.hexdigest()


def split(images: ImageDataset, val_fraction: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """Return training and validation images, each in their original order; the same seed gives the same split.

    No group is on both sides. As nearly val_fraction of the images are held out as that allows.
    """
    groups = torch.unique(images.groups, return_inverse=True)[1]
    sizes = torch.bincount(groups).tolist()
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed)).tolist()
    room = round(len(images) * val_fraction)
    held_out = torch.zeros(len(sizes), dtype=torch.bool)
    for group in order:
        if sizes[group] <= room:
            held_out[group] = True
            room -= sizes[group]
    # One group more may come nearer to val_fraction.
    others = [group for group in order if not held_out[group]]
    if len(others) > 1:
        smallest = min(others, key=sizes.__getitem__)
        held_out[smallest] = sizes[smallest] < 2 * room
    in_val = held_out[groups]
    return images.select((~in_val).nonzero()[:, 0]), images.select(in_val.nonzero()[:, 0])
