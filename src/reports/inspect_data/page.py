"""A set of images at a glance: numbers and examples on one page."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from src.core.image_files import save_grid
from src.data.datamodule import ImageDataModule
from src.data.dataset import ImageDataset
from src.reports.html import data_uri, template
from src.reports.inspect_data.measures import (
    Statistics,
    below,
    histogram,
    in_both_at_random,
    members_of,
    original_sizes,
)

LARGEST_SHOWN = 128  # pixels of a image on the page
COPIES_SHOWN = 8  # of one group
NAMES_SHOWN = 200  # of what could not be read


@dataclass(frozen=True)
class Limits:
    """What is worth a look, and how much of it is shown. Brightness and contrast: mean and deviation of luma, 0-255."""

    too_dark: float
    low_contrast: float
    examples: int
    contact_sheet: int


@dataclass(frozen=True)
class Subject:
    """What is inspected. everything: all that could be read; train and val: what training makes of it.

    sizes: width and height of the originals, in the order of everything. left_out: names and reasons. config: YAML.
    """

    title: str
    description: str
    everything: ImageDataset
    train: ImageDataset
    val: ImageDataset
    sizes: Sequence[tuple[int, int]]
    left_out: Sequence[tuple[str, str]]
    config: str

    @classmethod
    def of(cls, data: ImageDataModule, config: dict[str, Any]) -> "Subject":
        everything = data.source.load(data.image_size, data.cache_dir)
        data.setup()
        assert data.train is not None
        return cls(
            getattr(data.source, "title", data.source.description),
            data.source.description,
            everything,
            data.train,
            data.val,
            [(width, height) for width, height in everything.columns["size"].tolist()],
            everything.left_out,
            yaml.safe_dump({"data": config}, sort_keys=False, allow_unicode=True),
        )


def report(subject: Subject, limits: Limits, folder: Path) -> dict[str, float]:
    """Writes index.html and its PNGs into the folder; returns the numbers, named."""
    folder.mkdir(parents=True, exist_ok=True)
    images, statistics = subject.everything, Statistics.of(subject.everything)
    groups = members_of(images.groups)
    dark, flat = below(statistics.brightness, limits.too_dark), below(statistics.contrast, limits.low_contrast)
    numbers = {**_counts(subject, groups), "too dark": len(dark), "low contrast": len(flat)}
    sheets = {
        "train": _spread(subject.train, limits.contact_sheet),
        "validation": _spread(subject.val, limits.contact_sheet),
        "too_dark": images.select(dark[: limits.examples]),
        "low_contrast": images.select(flat[: limits.examples]),
    }
    shown_groups = [members for members in groups if len(members) > 1][: limits.examples // 2]
    mean, deviation = _rounded(statistics.mean), _stretched(statistics.deviation)

    for name, sheet in sheets.items():
        _save(list(sheet[:]), folder / f"{name}.png", columns=12)
    columns = min(COPIES_SHOWN, max(map(len, shown_groups), default=1))
    _save(_rows(images, shown_groups, columns), folder / "near_duplicates.png", columns)
    _save([mean, deviation], folder / "mean.png", columns=2)

    used = set(subject.train.names) | set(subject.val.names)
    page = template(__file__).render(
        subject=subject,
        limits=limits,
        numbers=numbers,
        group_sizes=sorted(Counter(map(len, groups)).items()),
        groups=[(len(members), _copies(images.select(members[:COPIES_SHOWN]), used)) for members in shown_groups],
        more_groups=sum(len(members) > 1 for members in groups) - len(shown_groups),
        unused=len(images) - len(used),
        sheets={name: _cells(sheet) for name, sheet in sheets.items()},
        mean=_uri(mean),
        deviation=_uri(deviation),
        brightness=histogram(statistics.brightness.numpy(), 0, 256, 32, below=limits.too_dark),
        contrast=histogram(statistics.contrast.numpy(), 0, 128, 32, below=limits.low_contrast),
        sizes=original_sizes(subject.sizes),
        image_size=images.pixels.shape[-1],
        left_out=subject.left_out[:NAMES_SHOWN],
    )
    # Names of files may hold bytes that are no text.
    (folder / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return numbers


def _counts(subject: Subject, groups: list[list[int]]) -> dict[str, float]:
    train, val = subject.train.groups, subject.val.groups
    return {
        "images": len(subject.everything),
        "left out": len(subject.left_out),
        "distinct to the eye": len(groups),
        "with near-duplicates": sum(len(members) for members in groups if len(members) > 1),
        "for training": len(train),
        "for validation": len(val),
        "groups in both": len(set(train.tolist()) & set(val.tolist())),
        "groups in both, if split at random": in_both_at_random(train, val),
    }


def _spread(images: ImageDataset, count: int) -> ImageDataset:
    """So many of them, evenly from first to last."""
    if len(images) <= count:
        return images
    return images.select([index * len(images) // count for index in range(count)])


def _cells(images: ImageDataset) -> list[dict[str, str]]:
    return [{"name": name, "uri": _uri(image)} for name, image in zip(images.names, images[:], strict=True)]


def _copies(images: ImageDataset, in_use: set[str]) -> list[dict[str, Any]]:
    smoothest = images.columns["smoothest"].tolist()
    return [
        {**cell, "used": cell["name"] in in_use, "smoothest": bool(is_smoothest)}
        for cell, is_smoothest in zip(_cells(images), smoothest, strict=True)
    ]


def _uri(image: Tensor) -> str:
    """uint8 (3, S, S) -> a image inside the page."""
    if image.shape[-1] > LARGEST_SHOWN:
        shown = interpolate(image[None].float(), LARGEST_SHOWN, mode="area")[0]
        image = _rounded(shown)
    content = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(content, "WEBP", quality=90)
    return data_uri("image/webp", content.getvalue())


def _rounded(values: Tensor) -> Tensor:
    return (values + 0.5).clamp(0, 255).to(torch.uint8)


def _stretched(deviation: Tensor) -> Tensor:
    """From black, where images differ least, to white, where they differ most."""
    lowest, highest = deviation.aminmax()
    return _rounded((deviation - lowest) * 255 / (highest - lowest).clamp(min=1e-6))


def _rows(images: ImageDataset, groups: list[list[int]], columns: int) -> list[Tensor]:
    """So many images of each group, filled up with white."""
    white = torch.full(tuple(images.pixels.shape[1:]), 255, dtype=torch.uint8)
    rows = [[*images[members[:columns]], *[white] * (columns - len(members))] for members in groups]
    return [image for row in rows for image in row]


def _save(images: list[Tensor], path: Path, columns: int) -> None:
    """A grid; of nothing none, and none is left of an earlier report."""
    path.unlink(missing_ok=True)
    if images:
        save_grid(images, path, columns)
