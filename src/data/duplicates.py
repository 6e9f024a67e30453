"""Which images show the same to the eye, and which copy of each to keep. numpy only."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product

import numpy as np

THUMBNAIL = 16
CORRELATION = 0.97
BLOCK = 2048  # images compared at a time: 16 MiB of correlations


def _rounded_luma(rgb: np.ndarray) -> np.ndarray:
    """Pillow's convert("L"), in whole numbers."""
    red, green, blue = (rgb[:, channel].astype(np.uint32) for channel in range(3))
    return np.right_shift(red * 19595 + green * 38470 + blue * 7471 + 0x8000, 16)


# The first is Pillow's. The rest are other readings of the word gray; see clean_as_published.
GRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rounded luma": _rounded_luma,
    "luma": lambda rgb: np.tensordot(rgb.astype(np.float64), (0.299, 0.587, 0.114), (1, 0)),
    "mean of the channels": lambda rgb: rgb.mean(1, dtype=np.float64),
}
GRAY = "rounded luma"
THUMBNAILS = ("means", "rounded means", "gray of rounded means")
BORDERS = ("left out", "edge", "reflect", "wrap")
BORDER = "left out"


def near_duplicate_groups(images: np.ndarray, gray: str = GRAY, thumbnail: str = "means") -> np.ndarray:
    """uint8 (N, 3, S, S), S a multiple of 16 -> int64 (N,): the first image of the group that each belongs to.

    Two are near-duplicates when their mean-free gray 16x16 thumbnails correlate above 0.97 (or are equal); groups are
    transitive. Memory grows with N, not with its square; 30,000 images of 64x64 take seconds.
    """
    thumbnails = np.empty((len(images), THUMBNAIL**2), np.float32)
    return groups_of_thumbnails(_fill(thumbnails, images, lambda chunk: _thumbnails(chunk, gray, thumbnail)))


def groups_of_thumbnails(thumbnails: np.ndarray) -> np.ndarray:
    """float32 (N, D) -> int64 (N,), as near_duplicate_groups."""
    # What is equal is compared once, however many copies there are; by digest, as sorting copies what it sorts.
    digests = b"".join(hashlib.sha256(row).digest() for row in np.ascontiguousarray(thumbnails))
    _, first, copy_of = np.unique(np.frombuffer(digests, "V32"), return_index=True, return_inverse=True)
    distinct, copy_of = np.sort(first), np.argsort(np.argsort(first))[copy_of]

    directions = thumbnails[distinct]
    directions -= directions.mean(1, keepdims=True)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions /= np.where(lengths > 0, lengths, 1)
    labels = np.arange(len(distinct))
    for start in range(0, len(distinct), BLOCK):
        for other in range(start, len(distinct), BLOCK):
            correlations = directions[start : start + BLOCK] @ directions[other : other + BLOCK].T
            left, right = np.nonzero(correlations > CORRELATION)
            labels = _joined(labels, left + start, right + other)
    return distinct[labels][copy_of]


def mean_absolute_laplacian(images: np.ndarray, gray: str = GRAY, border: str = BORDER) -> np.ndarray:
    """How rough each image is: uint8 (N, 3, S, S) -> float64 (N,), four neighbours against the middle, in grays."""
    roughness = np.empty(len(images), np.float64)
    return _fill(roughness, images, lambda chunk: _roughness(GRAYS[gray](chunk).astype(np.float64), border))


def smoothest_of_each(groups: np.ndarray, roughness: np.ndarray, at_least: int) -> np.ndarray:
    """Indices, rising, of the smoothest image of each group of at_least members; of equals the first.

    at_least=1 keeps one of everything; at_least=2 drops what is there only once, byte-equal copies counted.
    """
    order = np.lexsort((np.arange(len(groups)), roughness, groups))
    _, best, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    return np.sort(order[best[sizes >= at_least]])


def clean_as_published(images: np.ndarray, names: Sequence[str], digest: str | None) -> tuple[np.ndarray, str, bool]:
    """Indices of the clean images, the reading of the rule that they come from, and whether their names fit digest.

    The clean list of the cat faces 64x64 is published as a rule in words (of every group of two or more the smoothest
    copy) and a digest of its names; the words leave open what gray is, where is rounded, and what the Laplacian does at
    the border. The readings are tried, the likeliest first, until one fits; if none does, the first is returned. names:
    in numeric order, as images.
    """
    groups = cache(partial(near_duplicate_groups, images))
    roughness = cache(partial(mean_absolute_laplacian, images))
    tried: list[tuple[np.ndarray, str, bool]] = []
    for gray, thumbnail, border in product(GRAYS, THUMBNAILS, BORDERS):
        clean = smoothest_of_each(groups(gray, thumbnail), roughness(gray, border), at_least=2)
        fits = digest is None or names_digest([names[index] for index in clean]) == digest
        tried.append((clean, f"gray: {gray}, thumbnail: {thumbnail}, border: {border}", fits))
        if fits:
            return tried[-1]
    return tried[0]


def names_digest(names: Sequence[str]) -> str:
    """SHA-256 (hex) of the names, one a line, newline at the end."""
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode(errors="surrogateescape")).hexdigest()


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    """A few MiB at a time."""
    step = max(1, 2**23 // max(1, images[:1].nbytes))
    yield from (np.asarray(images[start : start + step]) for start in range(0, max(1, len(images)), step))


def _fill(values: np.ndarray, images: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """values, after what `of` makes of each chunk has been written there.

    One array from the start: small ones kept between the large ones that come and go leave holes in which no chunk
    finds room, until the process has grown by as much as all chunks together.
    """
    start = 0
    for chunk in _chunks(images):
        values[start : start + len(chunk)] = of(chunk)
        start += len(chunk)
    return values


def _thumbnails(rgb: np.ndarray, gray: str, thumbnail: str) -> np.ndarray:
    """(N, 3, S, S) -> float32 (N, 256)."""
    if thumbnail == "gray of rounded means":
        small = GRAYS[gray](_box_means(rgb, rounded=True))
    else:
        small = _box_means(GRAYS[gray](rgb), rounded=thumbnail == "rounded means")
    return small.reshape(len(rgb), THUMBNAIL**2).astype(np.float32)


def _box_means(values: np.ndarray, rounded: bool) -> np.ndarray:
    """(..., S, S) -> float32 (..., 16, 16); rounded after each axis, as by Pillow's BOX, or not at all."""
    for axis in (-1, -2):
        boxes = np.moveaxis(values, axis, -1)
        boxes = boxes.reshape(*boxes.shape[:-1], THUMBNAIL, boxes.shape[-1] // THUMBNAIL).mean(-1, dtype=np.float32)
        values = np.moveaxis(np.floor(boxes + 0.5) if rounded else boxes, -1, axis)
    return values


def _roughness(gray: np.ndarray, border: str) -> np.ndarray:
    if border != "left out":
        gray = np.pad(gray, ((0, 0), (1, 1), (1, 1)), border)  # type: ignore[call-overload]
    neighbours = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1] + gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
    # Rounded: equal images are equally rough, wherever in a chunk they were computed.
    return np.abs(neighbours - 4 * gray[:, 1:-1, 1:-1]).mean((1, 2)).round(9)


def _joined(labels: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Labels (each the smallest member of its set) after the pairs left[i], right[i] are joined too."""
    while (apart := labels[left] != labels[right]).any():
        left, right = left[apart], right[apart]
        ends = labels[left], labels[right]
        for end in ends:
            np.minimum.at(labels, end, np.minimum(*ends))
        while (labels != labels[labels]).any():
            labels = labels[labels]
    return labels
