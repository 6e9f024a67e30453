"""What data.crop=cat found in photos: heads.csv, and a section of the page."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageDraw

from src.core.errors import printable
from src.data.archives import Unusable
from src.data.cache.manifest import NO_CAT
from src.data.dataset import ImageDataset
from src.data.decoding import opened
from src.data.duplicates import mean_absolute_laplacian
from src.data.folder import Folder
from src.data.head_crops import square_around
from src.reports.html import image_uri

COLUMNS = ("file", "x0", "y0", "x1", "y1", "score", "kept", "image", "width", "height")
BLURRED = 4.0  # gray levels of the mean absolute Laplacian below which a crop of 64 pixels looks blurred
SHOWN_SIDE = 240  # pixels of an original on the page
COLORS = {True: "#21c36a", False: "#ff9500"}  # of a box that was kept or not


def write_heads(source: Any, images: ImageDataset, folder: Path, examples: int) -> dict[str, Any] | None:
    """Write heads.csv to the folder and return what the page shows of it; None where photos are not cropped to heads.

    One row a head and one a photo without, with the best guess; pixels are those of the upright photo.
    """
    if not isinstance(source, Folder) or source.decoding.get("crop") != "cat" or images.manifest is None:
        return None
    rows = json.loads(images.manifest.read_bytes())["heads"]
    with (folder / "heads.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    by_file: dict[str, list[list[Any]]] = {}
    for row in rows:
        by_file.setdefault(row[0], []).append(row)
    with_cat = [file for file, found in by_file.items() if NO_CAT not in found[0][6]]
    without = [file for file, found in by_file.items() if NO_CAT in found[0][6]]
    return {
        "photos": len(by_file),
        "heads found": len(rows) - len(without),
        "heads kept": sum(row[6] == "kept" for row in rows),
        "photos without a cat": len(without),
        "not kept": Counter(row[6].partition(" (")[0] for row in rows if row[6] != "kept").most_common(),
        "faults": _faults(images, rows),
        "originals": _originals(source, by_file, with_cat, examples),
        "originals without": _originals(source, by_file, without, examples // 2),
    }


def _faults(images: ImageDataset, rows: list[list[Any]]) -> dict[str, np.ndarray]:
    """Return the positions of images whose heads are too small, cut by the photo's border, or blurred."""
    size, at = images.pixels.shape[-1], {name: position for position, name in enumerate(images.names)}
    kept = [row for row in rows if row[6] == "kept"]
    if not kept:  # only centers of photos without a cat
        return {}
    where = np.array([at[row[7]] for row in kept], np.int64)
    boxes, extents = (np.array([row[part] for row in kept], float) for part in (slice(1, 5), slice(8, 10)))
    squares = [square_around(tuple(box), tuple(extent)) for box, extent in zip(boxes, extents.astype(int), strict=True)]
    small = np.array([right - left < size for left, _, right, _ in squares], bool)
    cut = ((boxes[:, :2] <= 0.005 * extents) | (boxes[:, 2:] >= 0.995 * extents)).any(1)
    blurred = (mean_absolute_laplacian(images.select(where)) < BLURRED * 64 / size) & ~small
    return {"smaller than an image": where[small], "cut by the border": where[cut], "blurred": where[blurred]}


def _originals(source: Folder, by_file: dict[str, Any], files: list[str], most: int) -> list[dict[str, Any]]:
    """Return some photos, evenly from first to last, small, with their boxes drawn."""
    wanted = set(files[:: -(-len(files) // most)]) if files and most else set()
    shown = []
    for file in source.files() if wanted else ():
        if file.name not in wanted:
            continue
        try:
            with opened(file.read()) as photo:
                size, small = photo.size, photo.convert("RGB")
        except (Unusable, OSError):  # it has changed since
            continue
        small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        draw, scale = ImageDraw.Draw(small), small.width / size[0]
        for row in by_file[file.name]:
            if row[1] != "":
                draw.rectangle([value * scale for value in row[1:5]], outline=COLORS[row[6] == "kept"], width=2)
        scores = ", ".join(f"{row[5]:.2f}" for row in by_file[file.name])
        shown.append({"name": printable(file.name), "uri": image_uri(small), "note": scores})
    return shown
