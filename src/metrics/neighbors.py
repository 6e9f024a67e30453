"""Nearest neighbors in a feature space."""

from collections.abc import Iterable

import torch
from torch import Tensor


def nearest_neighbors(queries: Tensor, candidates: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distances from each query to its nearest candidates, and the candidates' positions.

    queries: (V, Q, D), V versions of each query, of which the nearest counts. candidates: chunks (N, D), of which one
    is in memory at a time; positions count through all of them. Both results are (Q, at most count), the nearest
    first. In float64, the distance of equal vectors is at most about 1e-6 of their length.
    """
    distances = queries.new_empty(queries.shape[1], 0)
    positions = torch.empty(queries.shape[1], 0, dtype=torch.int64, device=queries.device)
    start = 0
    for chunk in candidates:
        found = torch.cdist(queries, chunk.to(queries)).amin(dim=0)
        numbers = torch.arange(start, start + len(chunk), device=queries.device).expand_as(found)
        distances, order = torch.cat([distances, found], dim=1).sort(dim=1, stable=True)
        positions = torch.cat([positions, numbers], dim=1).gather(1, order)[:, :count]
        distances = distances[:, :count]
        start += len(chunk)
    return distances, positions
