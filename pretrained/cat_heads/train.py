"""Train the head finder of src/data/cat_heads.py: composites are made, their features computed once, the heads trained.

    python -m pretrained.cat_heads.train AFHQ_512.zip AFHQ_64.zip BACKGROUNDS PHOTOS.zip PHOTOS.json WORK_FOLDER \
        [COUNT [FOLD]]

AFHQ_512, AFHQ_64: archives of aligned cat heads, the second small ones. BACKGROUNDS: a folder of images without cats.
PHOTOS: snapshots, with the boxes of heads that were marked by eye. WORK_FOLDER keeps the features of COUNT squares, so
another COUNT needs another folder. FOLD: 0, 1 or 2, the third of the photos that is left out; its weights go to
WORK_FOLDER. Without it the weights in this folder are replaced.
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
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from safetensors.torch import save_file
from torch.nn.functional import binary_cross_entropy_with_logits

from src.data.cat_heads import NETWORKS, REFERENCE, STRIDE, HeadFinder, HeadNetwork
from src.data.decoding import HEAD_WEIGHTS

CANVAS = 256
CELLS = CANVAS // STRIDE
FACE = (0.06, 0.04, 0.94, 0.95)  # of an aligned AFHQ image: the head from ear tips to chin
SMALLEST = 24  # pixels; a smaller head is neither right nor wrong
FOLDS = 3
HELD_OUT = 40  # of the 512-pixel heads: for composites that judge


class Material:
    """What composites are made of; photos are named by their position in the list."""

    def __init__(self, large: Path, small: Path, backgrounds: Path, photos: Path, marked: Path) -> None:
        archive = zipfile.ZipFile(large)
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        self.held_out = [read(archive, name) for name in names[:HELD_OUT]]
        self.large = [read(archive, name) for name in names[HELD_OUT:]]
        known, archive = {Path(name).stem for name in names[:HELD_OUT]}, zipfile.ZipFile(small)
        small_names = [name for name in archive.namelist() if name.endswith(".webp") and Path(name).stem not in known]
        self.small = [read(archive, name) for name in small_names]
        self.backgrounds = [Image.open(path).convert("RGB") for path in sorted(backgrounds.iterdir())]
        archive, heads = zipfile.ZipFile(photos), json.loads(marked.read_text())
        self.photo_names = sorted(heads)
        self.photos = [read(archive, name) for name in self.photo_names]
        self.heads = [heads[name]["heads"] for name in self.photo_names]
        self.with_cat = [index for index, boxes in enumerate(self.heads) if boxes]
        self.without_cat = [index for index, boxes in enumerate(self.heads) if not boxes]


def read(archive: zipfile.ZipFile, name: str) -> Image.Image:
    return Image.open(io.BytesIO(archive.read(name))).convert("RGB")


def jittered(image: Image.Image, rng: np.random.Generator, strength: float = 1.0) -> Image.Image:
    """Change brightness, contrast, color and sharpness."""
    for enhancer, spread in ((ImageEnhance.Brightness, 0.35), (ImageEnhance.Contrast, 0.25), (ImageEnhance.Color, 0.4)):
        image = enhancer(image).enhance(math.exp(rng.normal() * spread * strength))
    if rng.random() < 0.08 * strength:
        image = image.convert("L").convert("RGB")
    if rng.random() < 0.15 * strength:  # the tint of a lamp
        tint = np.exp(rng.normal(size=3) * 0.15)
        image = Image.fromarray((np.asarray(image) * tint).clip(0, 255).astype(np.uint8))
    return image


def window(image: Image.Image, rng: np.random.Generator, smallest: float = 0.3) -> Image.Image:
    """Return a random part of an image, CANVAS square, mirrored at random."""
    side = rng.uniform(smallest, 1.0) * min(image.size)
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    part = image.resize((CANVAS, CANVAS), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def fur(material: Material, rng: np.random.Generator, head: Image.Image | None = None) -> Image.Image:
    """Return fur only: a patch of forehead, cheek or chest, stretched, CANVAS square."""
    head = head or material.large[rng.integers(len(material.large))]
    x, y = [(0.35, 0.12), (0.2, 0.6), (0.6, 0.6), (0.35, 0.82)][rng.integers(4)]
    box = [value * head.width for value in (x, y, x + 0.25, y + 0.16)]
    patch = head.resize((CANVAS // 2, CANVAS // 2), Image.Resampling.BICUBIC, box).rotate(90 * int(rng.integers(4)))
    tiled = Image.new("RGB", (CANVAS, CANVAS))
    for i in range(2):
        for j in range(2):
            part = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if i else patch
            tiled.paste(part.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if j else part, (i * 128, j * 128))
    return tiled


def drawn_room(rng: np.random.Generator) -> Image.Image:
    """Return a background made by program: gradients, walls, stripes, boxes, noise of several scales."""
    image = Image.fromarray(rng.integers(0, 256, (2, 2, 3), np.uint8)).resize(
        (CANVAS, CANVAS), Image.Resampling.BILINEAR
    )
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 12)):
        color, (x, y), (w, h) = (
            tuple(rng.integers(0, 256, 3).tolist()),
            rng.uniform(-40, 256, 2),
            rng.uniform(4, 200, 2),
        )
        shape = (draw.rectangle, draw.ellipse)[rng.integers(2)]
        shape([x, y, x + w, y + h], fill=color)
    size = int(2 ** rng.uniform(2, 8))
    noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).resize(
        (CANVAS, CANVAS), Image.Resampling.BICUBIC
    )
    return Image.blend(image, noise, rng.uniform(0, 0.5)).filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))


def blob(rng: np.random.Generator, width: float, height: float, square: float, feather: float) -> Image.Image:
    """Return a mask: a super-ellipse (2 is an ellipse, 10 nearly a rectangle) with a soft edge."""
    y, x = np.mgrid[-1 : 1 : complex(0, max(4, round(height))), -1 : 1 : complex(0, max(4, round(width)))]
    radius = (np.abs(x) ** square + np.abs(y) ** square) ** (1 / square)
    return Image.fromarray((255 * ((1 - radius) / max(feather, 1e-3)).clip(0, 1)).astype(np.uint8))


def paste_head(
    canvas: Image.Image,
    head: Image.Image,
    box: tuple[float, float, float, float],
    angle: float,
    rng: np.random.Generator,
) -> tuple[float, float, float, float]:
    """Paste an aligned head so that its face fills a box; return the box of the face as it is then turned."""
    width, height = (box[2] - box[0]) / (FACE[2] - FACE[0]), (box[3] - box[1]) / (FACE[3] - FACE[1])
    head = head.resize((max(8, round(width)), max(8, round(height))), Image.Resampling.BICUBIC)
    # Several edges, so that none of them is what is learned.
    style = rng.random()
    square, feather = (rng.uniform(2.5, 5), rng.uniform(0.02, 0.25)) if style < 0.8 else (20, rng.uniform(0.01, 0.3))
    mask = blob(rng, head.width, head.height, square, feather)
    center = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    head, mask = (part.rotate(angle, Image.Resampling.BILINEAR, expand=True) for part in (head, mask))
    canvas.paste(head, (round(center[0] - head.width / 2), round(center[1] - head.height / 2)), mask)
    a, b, t = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2, math.radians(angle)
    half = math.hypot(a * math.cos(t), b * math.sin(t)), math.hypot(a * math.sin(t), b * math.cos(t))
    return center[0] - half[0], center[1] - half[1], center[0] + half[0], center[1] + half[1]


def covered(box: tuple[float, ...], by: tuple[float, ...]) -> bool:
    """Tell whether half of a box is under another one."""
    width, height = min(box[2], by[2]) - max(box[0], by[0]), min(box[3], by[3]) - max(box[1], by[1])
    return max(width, 0) * max(height, 0) > 0.4 * (box[2] - box[0]) * (box[3] - box[1])


def any_head(material: Material, size: float, rng: np.random.Generator) -> Image.Image:
    large = size > 110 or rng.random() < 0.3
    pool = material.large if large else material.small
    head = jittered(pool[rng.integers(len(pool))], rng)
    return head.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else head


def background(material: Material, rng: np.random.Generator) -> tuple[Image.Image, int]:
    """Return a background without a cat, and the photo that it is of, or -1."""
    kind, photo = rng.random(), -1
    if kind < 0.35:
        photo = int(rng.choice(material.without_cat))
        image = window(material.photos[photo], rng)
    elif kind < 0.65:
        image = window(material.backgrounds[rng.integers(len(material.backgrounds))], rng)
    elif kind < 0.85:
        image = drawn_room(rng)
    else:
        image = fur(material, rng)
    return jittered(image, rng), photo


def composite(material: Material, rng: np.random.Generator) -> tuple[Image.Image, list, list, int]:
    """Return a canvas, the boxes of its heads, boxes to ignore and the photo that it is of (-1: of none)."""
    canvas, photo = background(material, rng)
    boxes = []
    for _ in range(rng.choice(4, p=[0.2, 0.6, 0.15, 0.05])):
        size = math.exp(rng.uniform(math.log(26), math.log(250)))
        width, height = size * math.exp(rng.normal() * 0.1), size * math.exp(rng.normal() * 0.1)
        head = any_head(material, size, rng)
        x, y = rng.uniform(-0.15 * width, CANVAS - 0.85 * width), rng.uniform(-0.15 * height, CANVAS - 0.85 * height)
        if rng.random() < 0.7:  # a body of the same fur
            w, h = size * rng.uniform(0.9, 2.5), size * rng.uniform(0.9, 2.5)
            turn = rng.uniform(0.2, 0.8) * math.pi
            cx, cy = x + width / 2 + math.cos(turn) * w * 0.45, y + height / 2 + math.sin(turn) * h * 0.6
            mask = blob(rng, w, h, rng.uniform(2, 3), rng.uniform(0.02, 0.3)).rotate(rng.uniform(-40, 40), expand=True)
            body = fur(material, rng, head).resize(mask.size)
            canvas.paste(body, (round(cx - mask.width / 2), round(cy - mask.height / 2)), mask)
        angle = rng.normal() * (12 if rng.random() < 0.7 else 35)
        pasted = paste_head(canvas, head, (x, y, x + width, y + height), angle, rng)
        boxes = [*(box for box in boxes if not covered(box, pasted)), pasted]
        if rng.random() < 0.25:  # half covered
            w, h = width * rng.uniform(0.2, 0.6), height * rng.uniform(0.2, 0.6)
            cover = background(material, rng)[0].resize((max(4, round(w)), max(4, round(h))))
            at = x + rng.uniform(-0.3, 0.9) * width, y + rng.uniform(-0.2, 1.0) * height
            canvas.paste(cover, (round(at[0]), round(at[1])), blob(rng, *cover.size, rng.uniform(2, 12), 0.1))
    if not boxes and rng.random() < 0.5:  # fur, but no head
        part = fur(material, rng)
        mask = blob(rng, *rng.uniform(60, 256, 2), rng.uniform(2, 4), rng.uniform(0.02, 0.3))
        canvas.paste(part.resize(mask.size), tuple(rng.integers(-40, 160, 2).tolist()), mask)
    return canvas, boxes, [], photo


def frame_filling(material: Material, rng: np.random.Generator) -> tuple[Image.Image, list, list, int]:
    """Return a head with its own surroundings, which nearly fills or overfills the canvas."""
    head = jittered(material.large[rng.integers(len(material.large))], rng)
    scale, (dx, dy) = rng.uniform(0.72, 1.15), rng.uniform(-0.12, 0.12, 2)
    left, top = 0.5 - scale / 2 + dx, 0.5 - scale / 2 + dy
    side = head.width
    part = head.transform(
        (CANVAS, CANVAS),
        Image.Transform.EXTENT,
        (left * side, top * side, (left + scale) * side, (top + scale) * side),
        Image.Resampling.BICUBIC,
    )
    box = [(value - start) / scale * CANVAS for value, start in zip(FACE, (left, top, left, top), strict=True)]
    return part, [tuple(box)], [], -1


def photo_part(material: Material, photo: int, rng: np.random.Generator) -> tuple[Image.Image, list, list, int]:
    """Return a turned, mirrored part of a real photo around a head of random size; some heads become others."""
    image, marked = material.photos[photo].copy(), material.heads[photo]
    swapped = bool(marked) and rng.random() < 0.35
    if swapped:
        for head in marked:
            x0, y0, x1, y1 = head["box"]
            other = any_head(material, x1 - x0, rng)
            paste_head(image, other, (x0, y0, x1, y1), rng.normal() * 8, rng)
    if marked and rng.random() < 0.85:
        x0, y0, x1, y1 = marked[rng.integers(len(marked))]["box"]
        size = math.exp(rng.uniform(math.log(30), math.log(230)))
        scale = math.sqrt((x1 - x0) * (y1 - y0)) / size
        at = (x0 + x1) / 2, (y0 + y1) / 2
        target = rng.uniform(0.25, 0.75, 2) * CANVAS
    else:
        scale = rng.uniform(0.35, 1.2) * max(image.size) / CANVAS
        at, target = (rng.uniform(0.2, 0.8) * image.width, rng.uniform(0.2, 0.8) * image.height), (128, 128)
    angle, mirror = math.radians(rng.normal() * 9), rng.choice((-1, 1))
    stretch = math.exp(rng.normal() * 0.06)
    # canvas (u, v) -> photo: at + scale * R * ((u, v) - target)
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    forward = np.array([[c * mirror * stretch, -s], [s * mirror * stretch, c]])
    offset = np.array(at) - forward @ np.array(target)
    filter_ = Image.Resampling.BICUBIC
    source = image
    if scale > 1.6:  # Pillow's transform takes single pixels
        source = image.reduce(max(1, int(scale / 1.2)))
        ratio = np.array(source.size) / np.array(image.size)
        matrix, shift = forward * ratio[:, None], offset * ratio
    else:
        matrix, shift = forward, offset
    data = (matrix[0, 0], matrix[0, 1], shift[0], matrix[1, 0], matrix[1, 1], shift[1])
    fill = tuple(rng.integers(0, 256, 3).tolist())
    part = source.transform((CANVAS, CANVAS), Image.Transform.AFFINE, data, filter_, fillcolor=fill)
    inverse, boxes, ignored = np.linalg.inv(forward), [], []
    for head in marked:
        x0, y0, x1, y1 = head["box"]
        center = inverse @ (np.array([(x0 + x1) / 2, (y0 + y1) / 2]) - offset)
        a, b = (x1 - x0) / 2, (y1 - y0) / 2
        half = np.sqrt((inverse[:, 0] * a) ** 2 + (inverse[:, 1] * b) ** 2)
        box = (*(center - half), *(center + half))
        clipped = [min(max(value, 0), CANVAS) for value in box]
        visible = (clipped[2] - clipped[0]) * (clipped[3] - clipped[1]) / (4 * half[0] * half[1])
        unsure = visible < 0.6 or (head["face"] == "hidden" and not swapped) or half.max() * 2 > 330
        (ignored if unsure else boxes).append(tuple(clipped) if visible < 1 else box)
    return jittered(part, rng, 0.6), boxes, ignored, photo


def degraded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Darken, blur, add noise and compress, as phones do."""
    if rng.random() < 0.15:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.15, 0.5))
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6)))
    if rng.random() < 0.25:
        noisy = np.asarray(image) + rng.normal(size=(CANVAS, CANVAS, 3)) * rng.uniform(2, 14)
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        with io.BytesIO() as file:
            image.save(file, "JPEG", quality=int(rng.integers(35, 92)))
            image = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
    return image


def targets(boxes: list, ignored: list) -> np.ndarray:
    """Return (6, CELLS, CELLS): is there a head (1, 0), does the cell count (1, 0), and the box that the head says."""
    target = np.zeros((6, CELLS, CELLS), np.float32)
    target[1] = 1
    y, x = (np.mgrid[:CELLS, :CELLS] + 0.5) * STRIDE
    for x0, y0, x1, y1 in ignored:
        target[1][(x > x0) & (x < x1) & (y > y0) & (y < y1)] = 0
    for x0, y0, x1, y1 in sorted(boxes, key=lambda box: (box[0] - box[2]) * (box[3] - box[1])):
        cx, cy, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
        target[1][(abs(x - cx) < 0.38 * w) & (abs(y - cy) < 0.38 * h)] = 0
        inside = (abs(x - cx) < max(0.22 * w, 8)) & (abs(y - cy) < max(0.22 * h, 8))
        if math.sqrt(w * h) < SMALLEST:
            target[1][inside] = 0
            continue
        values = (cx - x) / STRIDE, (cy - y) / STRIDE, np.log(w / REFERENCE), np.log(h / REFERENCE)
        target[0][inside] = target[1][inside] = 1
        for channel, value in enumerate(values, start=2):
            target[channel][inside] = np.broadcast_to(value, x.shape)[inside]
    return target


def example(material: Material, index: int) -> tuple[np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(index)
    kind = rng.random()
    if kind < 0.44:
        made = composite(material, rng)
    elif kind < 0.51:
        made = frame_filling(material, rng)
    elif kind < 0.83:
        made = photo_part(material, int(rng.choice(material.with_cat)), rng)
    else:
        made = photo_part(material, int(rng.choice(material.without_cat)), rng)
    image, boxes, ignored, photo = made
    return np.asarray(degraded(image, rng)).transpose(2, 0, 1), targets(boxes, ignored), photo


def compute_features(material: Material, folder: Path, count: int) -> None:
    finder = HeadFinder()
    fine = np.lib.format.open_memmap(folder / "fine.npy", "w+", np.float16, (count, 112, CELLS, CELLS))
    coarse = np.lib.format.open_memmap(folder / "coarse.npy", "w+", np.float16, (count, 320, CELLS // 2, CELLS // 2))
    target = np.lib.format.open_memmap(folder / "target.npy", "w+", np.float32, (count, 6, CELLS, CELLS))
    photos, begun = np.zeros(count, np.int64), time.process_time()
    for start in range(0, count, 8):
        images, aims, of = zip(
            *(example(material, index) for index in range(start, min(start + 8, count))), strict=True
        )
        with torch.inference_mode():
            maps = finder.features(torch.from_numpy(np.stack(images)))
        for array, values in ((fine, maps[0].numpy()), (coarse, maps[1].numpy()), (target, np.stack(aims))):
            array[start : start + len(images)] = values
        photos[start : start + len(images)] = of
        if start % 800 == 0:
            print(f"{start} of {count} composites, {time.process_time() - begun:.0f} s", flush=True)
    np.save(folder / "photos.npy", photos)


def train(head: HeadNetwork, folder: Path, rows: np.ndarray, epochs: float, lr: float, seed: int) -> None:
    """Train with AdamW and a one-cycle learning rate on some of the cached examples."""
    fine, coarse, target = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("fine", "coarse", "target"))
    head.requires_grad_(True).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=0.02)
    steps, rng, batch = int(epochs * len(rows) / 32), np.random.default_rng(seed), 32
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    order, begun = rng.permutation(rows), time.process_time()
    for step in range(steps):
        if (step + 1) * batch % len(rows) < batch:
            order = rng.permutation(rows)
        at = step * batch % max(1, len(rows) - batch)
        picked = np.sort(order[at : at + batch])
        a, b, t = (torch.from_numpy(np.asarray(array[picked])).float() for array in (fine, coarse, target))
        # Features are dropped by channels, so that no single one decides.
        a, b = torch.nn.functional.dropout2d(a, 0.1), torch.nn.functional.dropout2d(b, 0.1)
        out = head(a, b)
        is_head, counts = t[:, 0], t[:, 1]
        p = torch.sigmoid(out[:, 0]).detach()
        focus = torch.where(is_head > 0, (1 - p) ** 2, p**2) * counts
        score = (focus * binary_cross_entropy_with_logits(out[:, 0], is_head, reduction="none")).sum()
        box = (
            is_head[:, None] * torch.nn.functional.smooth_l1_loss(out[:, 1:], t[:, 2:], reduction="none", beta=0.2)
        ).sum()
        heads = is_head.sum().clamp(min=1)
        loss = 4 * score / heads + box / heads
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print(
                f"step {step} of {steps}: score {score / heads:.3f} box {box / heads:.3f}, "
                f"{time.process_time() - begun:.0f} s",
                flush=True,
            )
    head.requires_grad_(False)


def main() -> None:
    torch.set_num_threads(1)
    *paths, folder = map(Path, sys.argv[1:7])
    count = int(sys.argv[7]) if len(sys.argv) > 7 else 3100
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "photos.npy").exists():
        compute_features(Material(*paths), folder, count)
    photos = np.load(folder / "photos.npy")
    if len(photos) != count:
        raise SystemExit(f"{folder} holds {len(photos)} squares, not {count}: give another folder")
    fold = None if len(sys.argv) < 9 else int(sys.argv[8])  # of the photos that are held out for cross-validation
    rows = np.flatnonzero((photos < 0) | (photos % FOLDS != fold)) if fold is not None else np.arange(len(photos))
    heads = torch.nn.ModuleList()
    for seed in range(NETWORKS):
        torch.manual_seed(seed)
        heads.append(HeadNetwork())
        torch.nn.init.constant_(heads[seed].output.bias[:1], -4.0)
        train(heads[seed], folder, rows, 5, 3e-3, seed)
    state = {name: tensor.contiguous() for name, tensor in heads.state_dict().items()}
    save_file(state, HEAD_WEIGHTS if fold is None else folder / f"fold{fold}.safetensors")


if __name__ == "__main__":
    main()
