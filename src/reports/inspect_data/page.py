"""A page that describes a set of images with numbers and examples."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from src.core.images import to_pillow
from src.data.archives import listed
from src.data.datamodule import ImageDataModule
from src.data.dataset import ImageDataset
from src.data.duplicates import near_duplicate_groups
from src.reports.html import image_uri, template
from src.reports.inspect_data.heads import write_heads

MAX_PIXELS = 128  # of an image's side on the page
MAX_MEMBERS = 8  # images of one group of near-duplicates
MAX_NAMES = 200  # of files that could not be read
EXAMPLES = 24  # images of what is worth a look
CONTACT_SHEET = 96  # images of training and of validation
TOO_DARK = 40  # a mean of luma, 0 to 255
LOW_CONTRAST = 20  # its standard deviation
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)


def write_page(data: ImageDataModule, config: dict[str, Any], folder: Path) -> dict[str, int]:
    """Write index.html, which needs no other file, and for photos heads.csv to the folder; return the numbers by name.

    config: that of the data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = data.source.load(data.image_size, data.cache_dir)  # all that could be read
    train, val = data.images("train"), data.val
    brightness, contrast, mean = pixel_statistics(images)
    dark, flat = (values.argsort(stable=True) for values in (brightness, contrast))
    dark, flat = dark[: (brightness < TOO_DARK).sum()], flat[: (contrast < LOW_CONTRAST).sum()]
    several = getattr(data.source, "decoding", {}).get("cats") == "all"  # groups hold the heads of one photo too
    alike = torch.from_numpy(near_duplicate_groups(images)) if several else images.groups
    order = alike.argsort(stable=True)
    group_sizes = torch.unique_consecutive(alike[order], return_counts=True)[1].tolist()
    members = sorted((part.tolist() for part in order.split(group_sizes)), key=lambda part: (-len(part), part))
    groups = [part for part in members if len(part) > 1]
    numbers = {
        "images": len(images),
        "left out": len(images.left_out),
        "distinct to the eye": len(members),
        "with near-duplicates": sum(map(len, groups)),
        "for training": len(train),
        "for validation": len(val),
        "groups in both": len(set(train.groups.tolist()) & set(val.groups.tolist())),
        "too dark": len(dark),
        "low contrast": len(flat),
    }
    heads = write_heads(data.source, images, folder, EXAMPLES)
    if heads:
        numbers |= {name: heads[name] for name in ("photos", "heads found", "heads kept", "photos without a cat")}
        numbers |= {f"heads {name}": len(where) for name, where in heads["faults"].items()}
        heads["faults"] = {
            name: (len(where), cells(images.select(where[:EXAMPLES]), set(images.names)))
            for name, where in heads["faults"].items()
        }
    sheets = {"too_dark": images.select(dark[:EXAMPLES]), "low_contrast": images.select(flat[:EXAMPLES])}
    for name, part in {"train": train, "validation": val}.items():
        count = min(CONTACT_SHEET, len(part))
        sheets[name] = part.select(np.linspace(0, len(part), count, endpoint=False, dtype=int))
    used, sizes = set(train.names) | set(val.names), images.columns["size"]
    shorter = sizes.amin(dim=1).numpy()
    page = template(__file__).render(
        title=data.source.title,
        description=data.source.description,
        config=yaml.safe_dump({"data": config}, sort_keys=False, allow_unicode=True),
        limits={"too_dark": TOO_DARK, "low_contrast": LOW_CONTRAST},
        numbers=numbers,
        heads=heads,
        root=config.get("root", ""),
        unread=listed(images.unread),
        has_groups="smoothest" in images.columns,
        group_sizes=sorted(Counter(group_sizes).items()),
        groups=[(len(part), cells(images.select(part[:MAX_MEMBERS]), used)) for part in groups[: EXAMPLES // 2]],
        more_groups=len(groups[EXAMPLES // 2 :]),
        unused=len(images) - len(used),
        sheets={name: cells(sheet, used) for name, sheet in sheets.items()},
        mean=thumbnail_uri(mean),
        brightness=histogram(brightness.numpy(), 0, 256, TOO_DARK),
        contrast=histogram(contrast.numpy(), 0, 128, LOW_CONTRAST),
        sizes=Counter(map(tuple, sizes.tolist())).most_common(),
        shortest=shorter.min(),
        not_square=(sizes[:, 0] != sizes[:, 1]).sum().item(),
        shorter_sides=histogram(shorter, 0, shorter.max() + 1) if np.ptp(shorter) else None,
        image_size=images.pixels.shape[-1],
        left_out=images.left_out[:MAX_NAMES],
    )
    # Names of files may hold bytes that are no text.
    (folder / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return numbers


def pixel_statistics(images: ImageDataset) -> tuple[Tensor, Tensor, Tensor]:
    """Return each image's brightness and contrast, (N,), and the mean of all images, uint8 (3, S, S).

    Brightness and contrast are the mean and the deviation of luma, from 0 to 255.
    """
    lumas, total = [], torch.zeros(images.pixels.shape[1:], dtype=torch.float64)
    for batch in images.batches(512):
        values = batch.float()
        luma = (values * LUMA).sum(1).flatten(1)
        lumas.append(torch.stack([luma.mean(1), luma.std(1, correction=0)]))
        total += values.sum(0)
    return *torch.cat(lumas, dim=1), (total / len(images)).round().to(torch.uint8)


def histogram(values: np.ndarray, low: float, high: float, below: float = 0, bins: int = 32) -> list[dict[str, float]]:
    """Return the bars from low to high; values outside count in the last. Bars of values below a limit are marked."""
    counts, edges = np.histogram(np.clip(values, low, np.nextafter(high, low)), bins, (low, high))
    return [
        {"from": float(start), "to": float(end), "count": int(count), "marked": bool(end <= below)}
        for count, start, end in zip(counts, edges[:-1], edges[1:], strict=True)
    ]


def cells(images: ImageDataset, used: set[str]) -> list[dict[str, Any]]:
    """Return the name and the address of each image, whether it is used, and whether it is its group's smoothest."""
    smoothest = images.columns.get("smoothest", torch.zeros(len(images))).bool().tolist()
    return [
        {"name": name, "uri": thumbnail_uri(image), "used": name in used, "smoothest": is_smoothest}
        for name, image, is_smoothest in zip(images.names, images[:], smoothest, strict=True)
    ]


def thumbnail_uri(image: Tensor) -> Markup:
    """Return an image, uint8 (3, S, S), inside the page, at most MAX_PIXELS wide."""
    small = to_pillow(image)
    small.thumbnail((MAX_PIXELS, MAX_PIXELS), Image.Resampling.BOX)
    return image_uri(small)
