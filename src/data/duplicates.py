"""Which pictures show the same to the eye, and which copy of each to keep. numpy only."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

THUMBNAIL = 16
CORRELATION = 0.97
BLOCK = 2048  # pictures compared at a time: 16 MiB of correlations

# Pillow's convert("L"), in whole numbers. The rest are other readings of the word grey; see clean_as_published.
GREYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rounded luma": lambda rgb: (np.tensordot(rgb.astype(np.uint32), (19595, 38470, 7471), (1, 0)) + 0x8000) >> 16,
    "luma": lambda rgb: np.tensordot(rgb.astype(np.float64), (0.299, 0.587, 0.114), (1, 0)),
    "mean of the channels": lambda rgb: rgb.mean(1, dtype=np.float64),
}
GREY = "rounded luma"
BORDERS = ("left out", "edge", "reflect", "wrap")
BORDER = "left out"


def near_duplicate_groups(images: np.ndarray, grey: str = GREY) -> np.ndarray:
    """uint8 (N, 3, S, S), S a multiple of 16 -> int64 (N,): the first picture of the group that each belongs to.

    Two are near-duplicates when their mean-free grey 16x16 thumbnails correlate above 0.97 (or are equal); groups are
    transitive. Memory grows with N, not with its square; 30,000 pictures of 64x64 take seconds.
    """
    thumbnails = np.concatenate([_thumbnails(GREYS[grey](chunk)) for chunk in _chunks(images)])
    return groups_of_thumbnails(thumbnails)


def groups_of_thumbnails(thumbnails: np.ndarray) -> np.ndarray:
    """float32 (N, D) -> int64 (N,), as near_duplicate_groups."""
    # What is equal is compared once, however many copies there are.
    rows = np.ascontiguousarray(thumbnails).view(f"V{thumbnails.itemsize * thumbnails.shape[1]}").ravel()
    _, first, copy_of = np.unique(rows, return_index=True, return_inverse=True)
    distinct, copy_of = np.sort(first), np.argsort(np.argsort(first))[copy_of]

    directions = thumbnails[distinct] - thumbnails[distinct].mean(1, keepdims=True)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions /= np.where(lengths > 0, lengths, 1)
    labels = np.arange(len(distinct))
    for start in range(0, len(distinct), BLOCK):
        for other in range(start, len(distinct), BLOCK):
            correlations = directions[start : start + BLOCK] @ directions[other : other + BLOCK].T
            left, right = np.nonzero(correlations > CORRELATION)
            labels = _joined(labels, left + start, right + other)
    return distinct[labels][copy_of]


def mean_absolute_laplacian(images: np.ndarray, grey: str = GREY, border: str = BORDER) -> np.ndarray:
    """How rough each picture is: uint8 (N, 3, S, S) -> float64 (N,), four neighbours against the middle, in greys."""
    return np.concatenate([_roughness(GREYS[grey](chunk).astype(np.float64), border) for chunk in _chunks(images)])


def smoothest_of_each(groups: np.ndarray, roughness: np.ndarray, at_least: int) -> np.ndarray:
    """Indices, rising, of the smoothest picture of each group of at_least members; of equals the first.

    at_least=1 keeps one of everything; at_least=2 drops what is there only once, byte-equal copies counted.
    """
    order = np.lexsort((np.arange(len(groups)), roughness, groups))
    _, best, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    return np.sort(order[best[sizes >= at_least]])


def clean_as_published(images: np.ndarray, names: Sequence[str], digest: str | None) -> tuple[np.ndarray, str, bool]:
    """Indices of the clean pictures, the reading of the rule that they come from, and whether their names fit digest.

    The clean list of the cat faces 64x64 is published as a rule in words (of every group of two or more the smoothest
    copy) and a digest of its names; the words leave open what grey is and what the Laplacian does at the border. The
    readings are tried, the likeliest first, until one fits; if none does, the first is returned. names: in numeric
    order, as images.
    """
    first: tuple[np.ndarray, str, bool] | None = None
    for grey in GREYS:
        groups = near_duplicate_groups(images, grey)
        for border in BORDERS:
            clean = smoothest_of_each(groups, mean_absolute_laplacian(images, grey, border), at_least=2)
            fits = digest is None or names_digest([names[index] for index in clean]) == digest
            found = clean, f"grey: {grey}, border: {border}", fits
            if fits:
                return found
            first = first or found
    assert first
    return first


def names_digest(names: Sequence[str]) -> str:
    """SHA-256 (hex) of the names, one a line, newline at the end."""
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode(errors="surrogateescape")).hexdigest()


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    """A few MiB at a time."""
    step = max(1, 2**23 // max(1, images[:1].nbytes))
    yield from (np.asarray(images[start : start + step]) for start in range(0, max(1, len(images)), step))


def _thumbnails(grey: np.ndarray) -> np.ndarray:
    """Means of boxes: (N, S, S) -> float32 (N, 256)."""
    count, side = grey.shape[0], grey.shape[-1] // THUMBNAIL
    boxes = grey.reshape(count, THUMBNAIL, side, THUMBNAIL, side)
    return boxes.mean((2, 4), dtype=np.float32).reshape(count, THUMBNAIL**2)


def _roughness(grey: np.ndarray, border: str) -> np.ndarray:
    if border != "left out":
        grey = np.pad(grey, ((0, 0), (1, 1), (1, 1)), border)  # type: ignore[call-overload]
    neighbours = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return np.abs(neighbours - 4 * grey[:, 1:-1, 1:-1]).mean((1, 2))


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
