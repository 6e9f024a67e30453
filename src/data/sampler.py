"""An endless stream of training images: one shuffled pass after the other, the same on any number of processes."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from src.core.seeds import mixed_seed
from src.data.dataset import ImageDataset


class ImageStream(Dataset):
    """Position in the endless stream -> image, uint8 (3, S, S). Order and flips depend on (seed, pass) alone."""

    def __init__(self, images: ImageDataset, seed: int, horizontal_flip: bool) -> None:
        self.images, self.seed, self.horizontal_flip = images, seed, horizontal_flip
        self._pass_number = -1

    def _start_pass(self, pass_number: int) -> None:
        if pass_number != self._pass_number:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, pass_number))
            self._order = torch.randperm(len(self.images), generator=generator)
            self._flipped = torch.rand(len(self.images), generator=generator) < 0.5
            self._pass_number = pass_number

    def __getitems__(self, positions: range) -> Tensor:
        """Consecutive positions -> uint8 (N, 3, S, S)."""
        batches = []
        start, size = positions.start, len(self.images)
        while start < positions.stop:
            pass_number, offset = divmod(start, size)
            self._start_pass(pass_number)
            chosen = self._order[offset : offset + positions.stop - start]
            batch = self.images[chosen]
            if self.horizontal_flip:
                _mirror(batch.numpy(), self._flipped[chosen].numpy())
            batches.append(batch)
            start += len(chosen)
        return torch.cat(batches) if len(batches) > 1 else batches[0]


def _mirror(images: np.ndarray, which: np.ndarray) -> None:
    """Flips these of uint8 (N, 3, S, S) in place, eight bytes at a time: S is a multiple of 8."""
    words = images.view(np.uint64)
    words[which] = words[which][..., ::-1].byteswap()


class StreamPositions(Sampler[range]):
    """Batches of positions from `start` on; each process takes its own part of every batch, nothing twice."""

    def __init__(self, start: int, batch_size: int, rank: int, world_size: int) -> None:
        self.start, self.batch_size = start, batch_size
        self.share = batch_size // world_size
        self.offset = rank * self.share

    def __iter__(self) -> Iterator[range]:
        position = self.start + self.offset
        while True:
            yield range(position, position + self.share)
            position += self.batch_size
