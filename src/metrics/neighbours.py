"""Nearest images in feature space."""

from collections.abc import Iterable

import torch
from torch import Tensor


def nearest(queries: Tensor, candidates: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Euclidean distances to the `count` nearest candidates of each query and their positions in the order of
    iteration, the nearest first: (V, Q, D), chunks of (N, D) -> two (Q, at most count). A query is as far away as the
    nearest of its V versions. In float64 equal vectors are at most about 1e-6 of their length apart. Memory: one chunk
    at a time."""
    distances = queries.new_empty(queries.shape[1], 0)
    positions = torch.empty(queries.shape[1], 0, dtype=torch.int64, device=queries.device)
    start = 0
    for chunk in candidates:
        found = torch.cdist(queries, chunk.to(queries)).amin(dim=0)
        places = torch.arange(start, start + len(chunk), device=queries.device).expand_as(found)
        distances, order = torch.cat([distances, found], dim=1).sort(dim=1, stable=True)
        positions = torch.cat([positions, places], dim=1).gather(1, order)[:, :count]
        distances = distances[:, :count]
        start += len(chunk)
    return distances, positions
