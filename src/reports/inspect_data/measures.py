"""What can be told of a set of images in numbers."""

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
class Statistics:
    """Of N images: luma's mean and standard deviation, each (N,); the mean and the deviation of all, (3, S, S)."""

    brightness: Tensor
    contrast: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, images: ImageDataset, batch_size: int = 512) -> "Statistics":
        brightness, contrast = torch.empty(2, len(images))
        total = torch.zeros(2, *images.pixels.shape[1:], dtype=torch.float64)
        for part in torch.arange(len(images)).split(batch_size):
            values = images[part].float()
            luma = (values * LUMA).sum(1).flatten(1)
            brightness[part], contrast[part] = luma.mean(1), luma.std(1, correction=0)
            total += torch.stack([values.sum(0), values.square().sum(0)])
        mean, square = total / len(images)
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        return cls(brightness, contrast, mean, deviation)


def histogram(values: np.ndarray, low: float, high: float, bins: int, below: float = -np.inf) -> dict[str, Any]:
    """Bars from low to high; what lies outside counts in the last. marked: bars of values below a limit.

    left, width and height are shares of the chart; the fullest bar is 1 high, no bar with a image under 1%.
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


def original_sizes(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The commonest original sizes, and a histogram of the shorter sides when they differ."""
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
    """Positions of each group's images, the largest group first."""
    order = torch.argsort(groups, stable=True)
    counts = torch.unique_consecutive(groups[order], return_counts=True)[1]
    return sorted((part.tolist() for part in order.split(counts.tolist())), key=lambda part: (-len(part), part))


def in_both_at_random(train: Tensor, val: Tensor) -> float:
    """How many groups a split image by image, with as many held out, would be expected to divide."""
    total = len(train) + len(val)
    sizes = torch.unique(torch.cat([train, val]), return_counts=True)[1].tolist()
    divided = {
        size: 1
        - sum(math.prod((side - taken) / (total - taken) for taken in range(size)) for side in map(len, (train, val)))
        for size in set(sizes)
    }
    return sum(divided[size] for size in sizes if size > 1)


def below(values: Tensor, limit: float) -> list[int]:
    """Positions of the values below a limit, the lowest first."""
    order = torch.argsort(values, stable=True)
    return order[: int((values < limit).sum())].tolist()
