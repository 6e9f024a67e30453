"""A page that describes a set of images with numbers and examples."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from markupsafe import Markup
from torch import Tensor
from torch.nn.functional import interpolate

from src.core.images import save_grid
from src.data.datamodule import ImageDataModule
from src.data.dataset import ImageDataset
from src.reports.html import image_uri, template
from src.reports.inspect_data import measures

MAX_PIXELS = 128  # of an image's side on the page
MAX_MEMBERS = 8  # images of one group of near-duplicates
MAX_NAMES = 200  # of files that could not be read


@dataclass(frozen=True)
class Limits:
    """Limits of what is shown as an example, by mean and deviation of luma (0 to 255), and numbers of examples."""

    too_dark: float
    low_contrast: float
    examples: int
    contact_sheet: int


def write_page(data: ImageDataModule, config: dict[str, Any], limits: Limits, folder: Path) -> dict[str, float]:
    """Write index.html and its PNGs to the folder; return the numbers by name. config: that of the data."""
    folder.mkdir(parents=True, exist_ok=True)
    images = data.source.load(data.image_size, data.cache_dir)  # all that could be read
    train, val = data.images("train"), data.val
    statistics, groups = measures.pixel_statistics(images), measures.members_of(images.groups)
    dark = measures.positions_below(statistics.brightness, limits.too_dark)
    flat = measures.positions_below(statistics.contrast, limits.low_contrast)
    numbers = {**counts(images, train, val, groups), "too dark": len(dark), "low contrast": len(flat)}
    sheets = {
        "train": evenly_spaced(train, limits.contact_sheet),
        "validation": evenly_spaced(val, limits.contact_sheet),
        "too_dark": images.select(dark[: limits.examples]),
        "low_contrast": images.select(flat[: limits.examples]),
    }
    shown_groups = [members for members in groups if len(members) > 1][: limits.examples // 2]
    # From black, where images differ least, to white, where they differ most.
    lowest, highest = statistics.deviation.aminmax()
    contrast = (statistics.deviation - lowest) * 255 / (highest - lowest).clamp(min=1e-6)
    mean, deviation = rounded(statistics.mean), rounded(contrast)

    for name, sheet in sheets.items():
        replace_grid(list(sheet[:]), folder / f"{name}.png", columns=12)
    columns = min(MAX_MEMBERS, max(map(len, shown_groups), default=1))
    replace_grid(padded_rows(images, shown_groups, columns), folder / "near_duplicates.png", columns)
    replace_grid([mean, deviation], folder / "mean.png", columns=2)

    used = set(train.names) | set(val.names)
    page = template(__file__).render(
        title=getattr(data.source, "title", data.source.description),
        description=data.source.description,
        config=yaml.safe_dump({"data": config}, sort_keys=False, allow_unicode=True),
        limits=limits,
        numbers=numbers,
        has_groups="smoothest" in images.columns,
        group_sizes=sorted(Counter(map(len, groups)).items()),
        groups=[(len(members), cells(images.select(members[:MAX_MEMBERS]), used)) for members in shown_groups],
        more_groups=sum(len(members) > 1 for members in groups) - len(shown_groups),
        unused=len(images) - len(used),
        sheets={name: cells(sheet, used) for name, sheet in sheets.items()},
        mean=thumbnail_uri(mean),
        deviation=thumbnail_uri(deviation),
        brightness=measures.histogram(statistics.brightness.numpy(), 0, 256, 32, below=limits.too_dark),
        contrast=measures.histogram(statistics.contrast.numpy(), 0, 128, 32, below=limits.low_contrast),
        sizes=measures.original_sizes(images.columns["size"].tolist()),
        image_size=images.pixels.shape[-1],
        left_out=images.left_out[:MAX_NAMES],
    )
    # Names of files may hold bytes that are no text.
    (folder / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return numbers


def counts(images: ImageDataset, train: ImageDataset, val: ImageDataset, groups: list[list[int]]) -> dict[str, float]:
    """Return the numbers of images and groups, by the names that the page and the screen show."""
    return {
        "images": len(images),
        "left out": len(images.left_out),
        "distinct to the eye": len(groups),
        "with near-duplicates": sum(len(members) for members in groups if len(members) > 1),
        "for training": len(train),
        "for validation": len(val),
        "groups in both": len(set(train.groups.tolist()) & set(val.groups.tolist())),
        "groups in both, if split at random": measures.in_both_at_random(train.groups, val.groups),
    }


def evenly_spaced(images: ImageDataset, count: int) -> ImageDataset:
    """Select at most `count` images, evenly from first to last."""
    count = min(count, len(images))
    return images.select([index * len(images) // count for index in range(count)])


def cells(images: ImageDataset, used: set[str]) -> list[dict[str, Any]]:
    """Return the name and the address of each image, whether it is used, and whether it is its group's smoothest."""
    smoothest = images.columns.get("smoothest", torch.zeros(len(images))).bool().tolist()
    return [
        {"name": name, "uri": thumbnail_uri(image), "used": name in used, "smoothest": is_smoothest}
        for name, image, is_smoothest in zip(images.names, images[:], smoothest, strict=True)
    ]


def thumbnail_uri(image: Tensor) -> Markup:
    """Return an image, uint8 (3, S, S), inside the page, at most MAX_PIXELS wide."""
    if image.shape[-1] > MAX_PIXELS:
        image = rounded(interpolate(image[None].float(), MAX_PIXELS, mode="area")[0])
    return image_uri(image)


def rounded(values: Tensor) -> Tensor:
    """Round values from 0 to 255 to uint8."""
    return (values + 0.5).clamp(0, 255).to(torch.uint8)


def padded_rows(images: ImageDataset, groups: list[list[int]], columns: int) -> list[Tensor]:
    """Return as many images of each group as there are columns, filled up with white."""
    white = torch.full(tuple(images.pixels.shape[1:]), 255, dtype=torch.uint8)
    rows = [[*images[members[:columns]], *[white] * (columns - len(members))] for members in groups]
    return [image for row in rows for image in row]


def replace_grid(images: list[Tensor], path: Path, columns: int) -> None:
    """Write a grid, or only remove that of an earlier page if there are no images."""
    path.unlink(missing_ok=True)
    if images:
        save_grid(images, path, columns)
