"""Judge the head finder on photos whose heads were marked by eye, and on composites of heads that were held out.

    python -m pretrained.cat_heads.judge PHOTOS.zip PHOTOS.json FOLDER_OF_FOLDS
    python -m pretrained.cat_heads.judge PHOTOS.zip PHOTOS.json FOLDER_OF_FOLDS AFHQ_512.zip AFHQ_64.zip BACKGROUNDS
    python -m pretrained.cat_heads.judge PHOTOS.zip PHOTOS.json COMPOSITES AFHQ_512.zip AFHQ_64.zip BACKGROUNDS write

FOLDER_OF_FOLDS: what `train` wrote for each fold; every photo is judged by the weights that did not see it.
The last one only writes composites of one head each into COMPOSITES/photos, to be cropped by data.crop=cat, and the
squares that a perfect finder would cut of them into COMPOSITES/marked.
"""

import io
import json
import math
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from pretrained.cat_heads.train import CANVAS, FOLDS, Material, background, composite, degraded
from src.data.cat_heads import HeadFinder, head_finder
from src.data.decoding import MIN_SCORE, Box, Head
from src.data.head_crops import square_around

COMPOSITES = 200
WRITTEN = 500


def overlap(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def report(title: str, found: list[list[Head]], marked: list[list[dict]], threshold: float = MIN_SCORE) -> None:
    """Print one line: heads that show a face found, false boxes, and the errors of what was found."""
    heads = at_half = at_third = false = false_photos = 0
    centers, sizes = [], []
    for every, truth in zip(found, marked, strict=True):
        boxes = [head.box for head in every if head.score >= threshold]
        for head in truth:
            best = max(boxes, key=lambda box: overlap(box, head["box"]), default=(0.0, 0.0, 1.0, 1.0))
            value, (x0, y0, x1, y1) = overlap(best, head["box"]), head["box"]
            if head["face"] != "hidden":
                heads, at_half, at_third = heads + 1, at_half + (value > 0.5), at_third + (value > 0.3)
            if value > 0.3:
                side = math.sqrt((x1 - x0) * (y1 - y0))
                centers.append(math.hypot(best[0] + best[2] - x0 - x1, best[1] + best[3] - y0 - y1) / 2 / side)
                sizes.append(math.sqrt((best[2] - best[0]) * (best[3] - best[1])) / side)
        false += sum(max((overlap(box, head["box"]) for head in truth), default=0.0) <= 0.3 for box in boxes)
        false_photos += bool(boxes) and not truth
    print(
        f"{title} at {threshold:.2f}: {at_half} of {heads} heads at IoU > 0.5, {at_third} at 0.3; {false} false boxes; "
        f"{false_photos} of {sum(not truth for truth in marked)} photos without a cat; median error of the center "
        f"{np.median(centers):.3f} of a head, of the size {np.median(np.abs(np.array(sizes) - 1)):.3f} "
        f"(median size {np.median(sizes):.2f})",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    photos, marked_path, folds = map(Path, sys.argv[1:4])
    if sys.argv[7:] == ["write"]:
        write_composites(Material(*map(Path, sys.argv[4:7]), photos, marked_path), folds)
        return
    marked, archive, finder = json.loads(marked_path.read_text()), zipfile.ZipFile(photos), HeadFinder().eval()
    names, seconds = sorted(marked), list[float]()
    found: dict[str, list[Head]] = {}
    for fold in range(FOLDS):
        finder.heads.load_state_dict(load_file(folds / f"fold{fold}.safetensors"))
        for name in names[fold::FOLDS]:
            image, begun = Image.open(io.BytesIO(archive.read(name))).convert("RGB"), time.process_time()
            found[name] = finder(image)
            seconds.append(time.process_time() - begun)
    for threshold in (0.3, 0.4, 0.5, 0.6, 0.7):
        truth = [marked[name]["heads"] for name in names]
        report(f"{FOLDS}-fold cross-validation", [found[name] for name in names], truth, threshold)
    print(f"{np.median(seconds):.2f} processor seconds a photo (median)")
    if len(sys.argv) > 4:
        judge_composites(Material(*map(Path, sys.argv[4:7]), photos, marked_path))


def use_held_out(material: Material) -> None:
    """Let composites be made of the held-out heads only."""
    material.large, material.small = material.held_out, [head.resize((64, 64)) for head in material.held_out]


def judged(box: Box) -> bool:
    """Return True for a head of 10% to 80% of the frame of a composite."""
    return 0.1 * CANVAS < box[3] - box[1] < 0.8 * CANVAS


def judge_composites(material: Material) -> None:
    """Judge the committed weights on composites of held-out heads of 10% to 80% of the frame."""
    use_held_out(material)
    found, marked = [], []
    for index in range(COMPOSITES):
        rng = np.random.default_rng(10**6 + index)
        image, boxes, _, _ = composite(material, rng) if index % 5 else (background(material, rng)[0], [], [], -1)
        found.append(head_finder()(degraded(image, rng)))
        marked.append([{"box": box, "face": "frontal"} for box in boxes if judged(box)])
    report("composites", found, marked)


def write_composites(material: Material, folder: Path) -> None:
    """Write composites with one held-out head of 10% to 80% of the frame, and the same cropped where the head is."""
    use_held_out(material)
    for part in ("photos", "marked"):
        (folder / part).mkdir(parents=True)
    index = written = 0
    while written < WRITTEN:
        index += 1
        image, boxes, _, _ = composite(material, np.random.default_rng(2 * 10**6 + index))
        if len(boxes) == 1 and judged(boxes[0]):
            image.save(folder / "photos" / f"{written:04d}.png")
            image.crop(square_around(boxes[0], image.size)).save(folder / "marked" / f"{written:04d}.png")
            written += 1


if __name__ == "__main__":
    main()
