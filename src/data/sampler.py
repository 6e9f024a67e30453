"""An endless stream of training images: one shuffled epoch after the other, the same for any number of ranks."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.core.seeds import mixed_seed
from src.data.dataset import ImageDataset


class ImageStream(Dataset):
    """Positions in the endless stream -> images, uint8 (N, 3, S, S). Order and flips depend on (seed, epoch) alone."""

    def __init__(self, images: ImageDataset, seed: int, horizontal_flip: bool) -> None:
        self.images, self.seed, self.horizontal_flip = images, seed, horizontal_flip
        self._epoch = -1

    def __getitem__(self, positions: range) -> Tensor:
        """Return the images of consecutive positions, uint8 (N, 3, S, S)."""
        batches = []
        start = positions.start
        while start < positions.stop:
            epoch, offset = divmod(start, len(self.images))
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
                self._order = torch.randperm(len(self.images), generator=generator)
                self._flipped = torch.rand(len(self.images), generator=generator) < 0.5
                self._epoch = epoch
            rows = self._order[offset : offset + positions.stop - start]
            batch = self.images[rows]
            if self.horizontal_flip:
                # In place, eight bytes at a time: S is a multiple of 8.
                words, flipped = batch.numpy().view(np.uint64), self._flipped[rows].numpy()
                words[flipped] = words[flipped][..., ::-1].byteswap()
            batches.append(batch)
            start += len(rows)
        return torch.cat(batches) if len(batches) > 1 else batches[0]


def stream_positions(start: int, batch_size: int, rank: int, world_size: int) -> Iterator[range]:
    """Yield batches of positions, from `start` on; each rank takes its own part of every batch."""
    rank_batch_size = batch_size // world_size
    for position in itertools.count(start + rank * rank_batch_size, batch_size):
        yield range(position, position + rank_batch_size)
