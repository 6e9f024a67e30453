"""Find images that look the same, and the copy of each to keep. Images are uint8 (N, 3, S, S): arrays or datasets."""

import hashlib
from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from src.data.dataset import ImageDataset

THUMBNAIL = 16
MIN_CORRELATION = 0.97
BLOCK = 2048  # images compared at a time: 16 MiB of correlations

Images = np.ndarray | ImageDataset


def near_duplicate_groups(images: Images) -> np.ndarray:
    """Return the first image of the group that each belongs to: (N, 3, S, S), S a multiple of 16 -> int64 (N,).

    Two are near-duplicates if their mean-free gray 16x16 thumbnails correlate above 0.97 (or are equal); groups are
    transitive. Memory grows with N, not with its square; 30,000 images of 64x64 take seconds.
    """
    thumbnails = np.empty((len(images), THUMBNAIL**2), np.float32)
    return groups_of_thumbnails(_fill(thumbnails, images, _thumbnails))


def groups_of_thumbnails(thumbnails: np.ndarray) -> np.ndarray:
    """Return the groups of near_duplicate_groups for thumbnails: float32 (N, D) -> int64 (N,)."""
    # Equal ones are compared once, however many copies there are.
    seen: dict[bytes, int] = {}
    copy_of = [seen.setdefault(hashlib.sha256(row).digest(), len(seen)) for row in np.ascontiguousarray(thumbnails)]
    distinct = np.unique(copy_of, return_index=True)[1]

    directions = thumbnails[distinct]
    directions -= directions.mean(1, keepdims=True)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions /= np.where(lengths > 0, lengths, 1)
    labels = np.arange(len(distinct))
    for start in range(0, len(distinct), BLOCK):
        for other in range(start, len(distinct), BLOCK):
            correlations = directions[start : start + BLOCK] @ directions[other : other + BLOCK].T
            left, right = np.nonzero(correlations > MIN_CORRELATION)
            labels = _joined(labels, labels[left + start], labels[right + other])
    return distinct[np.unique(labels, return_index=True)[1]][labels][copy_of]


def mean_absolute_laplacian(images: Images) -> np.ndarray:
    """Return how rough each image is, in gray levels: (N, 3, S, S) -> float64 (N,).

    The Laplacian is the sum of a pixel's four neighbors minus four times itself; pixels at the border have none.
    """
    return _fill(np.empty(len(images), np.float64), images, _roughness)


def smoothest_of_each(groups: np.ndarray, roughness: np.ndarray) -> np.ndarray:
    """Return the positions, rising, of the smoothest image of each group; of equally smooth ones the first."""
    order = np.lexsort((np.arange(len(groups)), roughness, groups))
    return np.sort(order[np.unique(groups[order], return_index=True)[1]])


def joined(groups: np.ndarray, names: list[str]) -> np.ndarray:
    """Return groups of which those that share a name have become one, each named by one of its images."""
    _, first, same_name = np.unique(names, return_index=True, return_inverse=True)
    here = np.arange(len(groups))
    labels = _joined(here, np.tile(here, 2), np.concatenate([groups, first[same_name]]))
    return np.unique(labels, return_index=True)[1][labels]


def _fill(values: np.ndarray, images: Images, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Fill and return `values` with what is computed of the images, a few MiB of them at a time.

    One array from the start: small arrays kept between large ones that come and go leave holes in which no chunk
    finds room, until the process has grown by as much as all chunks together.
    """
    step = max(1, 2**23 // max(1, images[:1].nbytes))
    for start in range(0, len(images), step):
        values[start : start + step] = compute(np.asarray(images[start : start + step]))
    return values


def _gray(rgb: np.ndarray) -> np.ndarray:
    """Convert to gray as Pillow's convert("L"), in whole numbers: uint8 (N, 3, S, S) -> uint32 (N, S, S)."""
    red, green, blue = (rgb[:, channel].astype(np.uint32) for channel in range(3))
    return np.right_shift(red * 19595 + green * 38470 + blue * 7471 + 0x8000, 16)


def _thumbnails(rgb: np.ndarray) -> np.ndarray:
    """Return the means of 16x16 boxes: (N, 3, S, S) -> float32 (N, 256)."""
    num_images, size = len(rgb), rgb.shape[-1] // THUMBNAIL
    rows = _gray(rgb).reshape(num_images, -1, THUMBNAIL, size).mean(-1, dtype=np.float32)
    return rows.reshape(num_images, THUMBNAIL, size, THUMBNAIL).mean(2, dtype=np.float32).reshape(num_images, -1)


def _roughness(rgb: np.ndarray) -> np.ndarray:
    gray = _gray(rgb).astype(np.float64)
    neighbors = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1] + gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
    # Rounded: equal images are equally rough, wherever in a chunk they were computed.
    return np.abs(neighbors - 4 * gray[:, 1:-1, 1:-1]).mean((1, 2)).round(9)


def _joined(labels: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the labels of groups after the groups left[i] and right[i] have become one, numbered from 0 on."""
    count = len(labels)
    pairs = coo_array((np.ones(len(left), bool), (left, right)), shape=(count, count))
    return connected_components(pairs, directed=False)[1][labels]
