"""Numbers that describe a set of images."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.data.dataset import ImageDataset

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)


@dataclass(frozen=True)
class PixelStatistics:
    """Brightness and contrast of each image, (N,): its luma's mean and deviation; mean and deviation of all images,
    (3, S, S)."""

    brightness: Tensor
    contrast: Tensor
    mean: Tensor
    deviation: Tensor


def pixel_statistics(images: ImageDataset, batch_size: int = 512) -> PixelStatistics:
    """Return the statistics of all images, in units of 0 to 255."""
    lumas = []
    total = torch.zeros(2, *images.pixels.shape[1:], dtype=torch.float64)
    for batch in images.batches(batch_size):
        values = batch.float()
        luma = (values * LUMA).sum(1).flatten(1)
        lumas.append(torch.stack([luma.mean(1), luma.std(1, correction=0)]))
        total += torch.stack([values.sum(0), values.square().sum(0)])
    brightness, contrast = torch.cat(lumas, dim=1)
    mean, square = total / len(images)
    return PixelStatistics(brightness, contrast, mean, (square - mean.square()).clamp(min=0).sqrt())


def histogram(values: np.ndarray, low: float, high: float, bins: int, below: float = -np.inf) -> dict[str, Any]:
    """Return the bars from low to high; values outside count in the last. Bars of values below a limit are marked.

    left, width and height are fractions of the chart; the fullest bar is 1 high, a bar with an image at least 0.01.
    """
    counts, edges = np.histogram(np.clip(values, low, np.nextafter(high, low)), bins, (low, high))
    bars = [
        {
            "from": float(start),
            "to": float(end),
            "count": int(count),
            "left": index / bins,
            "width": 0.9 / bins,
            "height": max(0.01, count / counts.max()) if count else 0.0,
            "marked": bool(end <= below),
        }
        for index, (count, start, end) in enumerate(zip(counts, edges[:-1], edges[1:], strict=True))
    ]
    return {"bars": bars, "low": low, "high": high}


def original_sizes(sizes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the most common (width, height), and a histogram of the shorter sides if they differ."""
    counted = Counter(tuple(size) for size in sizes).most_common()
    shorter = np.array([min(size) for size in sizes])
    differ = shorter.min() < shorter.max()
    return {
        "common": counted[:6],
        "others": len(counted) - 6,
        "shortest": int(shorter.min()),
        "not_square": sum(width != height for width, height in sizes),
        "histogram": histogram(shorter, 0, float(shorter.max()) + 1, 32) if differ else None,
    }


def members_of(groups: Tensor) -> list[list[int]]:
    """Return the positions of each group's images, the largest group first."""
    order = torch.argsort(groups, stable=True)
    counts = torch.unique_consecutive(groups[order], return_counts=True)[1]
    return sorted((part.tolist() for part in order.split(counts.tolist())), key=lambda part: (-len(part), part))


def in_both_at_random(train: Tensor, val: Tensor) -> float:
    """Return how many groups are expected on both sides of a split that ignores groups and holds out as many images."""
    total = len(train) + len(val)
    sizes = Counter(torch.unique(torch.cat([train, val]), return_counts=True)[1].tolist())
    expected = 0.0
    for size, count in sizes.items():
        on_one_side = sum(
            math.prod((side - taken) / (total - taken) for taken in range(size)) for side in (len(train), len(val))
        )
        expected += count * (1 - on_one_side) if size > 1 else 0.0
    return expected


def positions_below(values: Tensor, limit: float) -> list[int]:
    """Return the positions of the values below a limit, the lowest first."""
    order = torch.argsort(values, stable=True)
    return order[: int((values < limit).sum())].tolist()
