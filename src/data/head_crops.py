"""Crop photos to cats' heads: what data.crop=cat does to a file, once, when the cache is built."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from src.data.cache.manifest import NO_CAT, DecodedImage
from src.data.decoding import MIN_SCORE, Box, Decoding, Head, TooSmall, opened

MARGIN = 1.15  # side of the crop to that of the head: what AFHQ's alignment leaves around one
FILLS = 0.75  # of the shorter side; a crop that would be larger is the whole image already


def head_crops(name: str, sha256: str, content: bytes, decoding: Decoding) -> list[DecodedImage]:
    """Return a photo's heads (one, or all with decoding.cats=all), and a row of heads.csv for each that is there.

    A photo without a cat gives its centered square, or with decoding.without_cat=skip the reason why it gives none.
    """
    from src.data.cat_heads import find_heads  # loads a network

    with opened(content) as photo:
        image, size = decoding.rgb(photo), photo.size
    found = find_heads(image)
    heads = [head for head in found if head.score >= MIN_SCORE]
    heads.sort(key=lambda head: (head.box[0] - head.box[2]) * (head.box[3] - head.box[1]))
    if not heads:
        best = found[0] if found else Head((math.nan,) * 4, 0.0)
        reason = f"{NO_CAT} (best score {best.score:.2f})"
        if decoding.without_cat == "skip":
            return [DecodedImage(name, sha256, size=size, reason=reason, heads=(_row(name, best, reason, "", size),))]
        row = _row(name, best, f"center: {reason}", name, size)
        return [DecodedImage(name, sha256, decoding.square(image), size, heads=(row,))]
    taken = heads if decoding.cats == "all" else heads[:1]
    images, rows = list[DecodedImage](), [_row(name, head, "not the largest", "", size) for head in heads[len(taken) :]]
    for number, head in enumerate(taken, start=1):
        own_name, reason = f"{name}#{number}" if len(taken) > 1 else name, ""
        pixels: np.ndarray | None = None
        try:
            pixels = decoding.square(image.crop(square_around(head.box, size)))
        except TooSmall as error:
            reason = f"its square is too small: {error}"
        images.append(DecodedImage(own_name, sha256, pixels, size, reason))
        rows.append(_row(name, head, reason or "kept", "" if reason else own_name, size))
    return [replace(images[0], heads=tuple(rows)), *images[1:]]


def cat_square(photo: Image.Image) -> tuple[int, int, int, int] | None:
    """Return the square about the surest cat's head in an upright photo, None where there is none."""
    from src.data.cat_heads import find_heads  # loads a network

    head = next(iter(find_heads(photo)), None)
    return square_around(head.box, photo.size) if head and head.score >= MIN_SCORE else None


def square_around(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the square, with a margin, around a head in a photo of that width and height, in whole pixels inside it.

    Where the head fills a photo that is about square, this is the photo's centered square.
    """
    shorter = min(size)
    side = MARGIN * max(box[2] - box[0], box[3] - box[1])
    center = [(box[axis] + box[axis + 2]) / 2 for axis in (0, 1)]
    if side > FILLS * shorter and max(size) < 1.25 * shorter:
        side, center = shorter, [extent / 2 for extent in size]
    side = max(1, min(shorter, math.ceil(side)))
    left, top = (
        min(max(round(middle - side / 2), 0), extent - side) for middle, extent in zip(center, size, strict=True)
    )
    return left, top, left + side, top + side


def _row(file: str, head: Head, kept: str, image: str, size: tuple[int, int]) -> tuple[Any, ...]:
    """Return a row of heads.csv: what was found, kept or why not, the image it gave, the photo's size."""
    box = ["" if math.isnan(value) else round(value) for value in head.box]
    return file, *box, round(head.score, 3), kept, image, *size
