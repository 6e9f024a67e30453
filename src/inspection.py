"""What can be told of a set of pictures at a glance: numbers, examples, and one page that shows them."""

import base64
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from src.data.datamodule import ImageDataModule
from src.data.pictures import Pictures
from src.pictures import save_grid

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
LARGEST_SHOWN = 128  # pixels of a picture on the page
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
class Statistics:
    """Of N pictures: luma's mean and standard deviation, each (N,); the mean and the deviation of all, (3, S, S)."""

    brightness: Tensor
    contrast: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, pictures: Pictures, batch_size: int = 512) -> "Statistics":
        brightness, contrast = torch.empty(2, len(pictures))
        total = torch.zeros(2, *pictures.pixels.shape[1:], dtype=torch.float64)
        for part in torch.arange(len(pictures)).split(batch_size):
            values = pictures[part].float()
            luma = (values * LUMA).sum(1).flatten(1)
            brightness[part], contrast[part] = luma.mean(1), luma.std(1, correction=0)
            total += torch.stack([values.sum(0), values.square().sum(0)])
        mean, square = total / len(pictures)
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        return cls(brightness, contrast, mean, deviation)


@dataclass(frozen=True)
class Subject:
    """What is inspected. everything: all that could be read; train and val: what training makes of it.

    sizes: width and height of the originals, in the order of everything. left_out: names and reasons. config: YAML.
    """

    title: str
    description: str
    everything: Pictures
    train: Pictures
    val: Pictures
    sizes: Sequence[tuple[int, int]]
    left_out: Sequence[tuple[str, str]]
    config: str

    @classmethod
    def of(cls, data: ImageDataModule, config: dict[str, Any]) -> "Subject":
        everything = data.source.load(data.image_size, data.store_dir)
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
    pictures, statistics = subject.everything, Statistics.of(subject.everything)
    groups = _members(pictures.groups)
    dark, flat = _below(statistics.brightness, limits.too_dark), _below(statistics.contrast, limits.low_contrast)
    numbers = {**_counts(subject, groups), "too dark": len(dark), "low contrast": len(flat)}
    sheets = {
        "train": _spread(subject.train, limits.contact_sheet),
        "validation": _spread(subject.val, limits.contact_sheet),
        "too_dark": pictures.select(dark[: limits.examples]),
        "low_contrast": pictures.select(flat[: limits.examples]),
    }
    shown_groups = [members for members in groups if len(members) > 1][: limits.examples // 2]
    mean, deviation = _rounded(statistics.mean), _stretched(statistics.deviation)

    for name, sheet in sheets.items():
        _save(list(sheet[:]), folder / f"{name}.png", columns=12)
    columns = min(COPIES_SHOWN, max(map(len, shown_groups), default=1))
    _save(_rows(pictures, shown_groups, columns), folder / "near_duplicates.png", columns)
    _save([mean, deviation], folder / "mean.png", columns=2)

    used = set(subject.train.names) | set(subject.val.names)
    page = _template().render(
        subject=subject,
        limits=limits,
        numbers=numbers,
        group_sizes=sorted(Counter(map(len, groups)).items()),
        groups=[(len(members), _copies(pictures.select(members[:COPIES_SHOWN]), used)) for members in shown_groups],
        more_groups=sum(len(members) > 1 for members in groups) - len(shown_groups),
        unused=len(pictures) - len(used),
        sheets={name: _cells(sheet) for name, sheet in sheets.items()},
        mean=_uri(mean),
        deviation=_uri(deviation),
        brightness=histogram(statistics.brightness.numpy(), 0, 256, 32, below=limits.too_dark),
        contrast=histogram(statistics.contrast.numpy(), 0, 128, 32, below=limits.low_contrast),
        sizes=_sizes(subject.sizes),
        image_size=pictures.pixels.shape[-1],
        left_out=subject.left_out[:NAMES_SHOWN],
    )
    # Names of files may hold bytes that are no text.
    (folder / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return numbers


def _counts(subject: Subject, groups: list[list[int]]) -> dict[str, float]:
    train, val = subject.train.groups, subject.val.groups
    return {
        "pictures": len(subject.everything),
        "left out": len(subject.left_out),
        "distinct to the eye": len(groups),
        "with near-duplicates": sum(len(members) for members in groups if len(members) > 1),
        "for training": len(train),
        "for validation": len(val),
        "groups in both": len(set(train.tolist()) & set(val.tolist())),
        "groups in both, if split at random": in_both_at_random(train, val),
    }


def histogram(values: np.ndarray, low: float, high: float, bins: int, below: float = -np.inf) -> dict[str, Any]:
    """Bars from low to high; what lies outside counts in the last. marked: bars of values below a limit.

    left, width and height are shares of the chart; the fullest bar is 1 high, no bar with a picture under 1%.
    """
    counts, edges = np.histogram(np.clip(values, low, np.nextafter(high, low)), bins, (low, high))
    bars = [
        {
            "from": float(start),
            "to": float(end),
            "count": int(count),
            "left": index / bins,
            "width": 0.9 / bins,
            "height": max(0.01, count / counts.max()) if count else 0.0,
            "marked": bool(end <= below),
        }
        for index, (count, start, end) in enumerate(zip(counts, edges[:-1], edges[1:], strict=True))
    ]
    return {"bars": bars, "low": low, "high": high}


def _sizes(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The commonest original sizes, and a histogram of the shorter sides when they differ."""
    counted = Counter(tuple(size) for size in sizes).most_common()
    shorter = np.array([min(size) for size in sizes])
    differ = shorter.min() < shorter.max()
    return {
        "common": counted[:6],
        "others": len(counted) - 6,
        "shortest": int(shorter.min()),
        "not_square": sum(width != height for width, height in sizes),
        "histogram": histogram(shorter, 0, float(shorter.max()) + 1, 32) if differ else None,
    }


def _members(groups: Tensor) -> list[list[int]]:
    """Positions of each group's pictures, the largest group first."""
    order = torch.argsort(groups, stable=True)
    counts = torch.unique_consecutive(groups[order], return_counts=True)[1]
    return sorted((part.tolist() for part in order.split(counts.tolist())), key=lambda part: (-len(part), part))


def in_both_at_random(train: Tensor, val: Tensor) -> float:
    """How many groups a split picture by picture, with as many held out, would be expected to divide."""
    total = len(train) + len(val)
    sizes = torch.unique(torch.cat([train, val]), return_counts=True)[1].tolist()
    divided = {
        size: 1
        - sum(math.prod((side - taken) / (total - taken) for taken in range(size)) for side in map(len, (train, val)))
        for size in set(sizes)
    }
    return sum(divided[size] for size in sizes if size > 1)


def _below(values: Tensor, limit: float) -> list[int]:
    """Positions of the values below a limit, the lowest first."""
    order = torch.argsort(values, stable=True)
    return order[: int((values < limit).sum())].tolist()


def _spread(pictures: Pictures, count: int) -> Pictures:
    """So many of them, evenly from first to last."""
    if len(pictures) <= count:
        return pictures
    return pictures.select([index * len(pictures) // count for index in range(count)])


def _cells(pictures: Pictures) -> list[dict[str, str]]:
    return [{"name": name, "uri": _uri(picture)} for name, picture in zip(pictures.names, pictures[:], strict=True)]


def _copies(pictures: Pictures, in_use: set[str]) -> list[dict[str, Any]]:
    smoothest = pictures.columns["smoothest"].tolist()
    return [
        {**cell, "used": cell["name"] in in_use, "smoothest": bool(is_smoothest)}
        for cell, is_smoothest in zip(_cells(pictures), smoothest, strict=True)
    ]


def _uri(picture: Tensor) -> str:
    """uint8 (3, S, S) -> a picture inside the page."""
    if picture.shape[-1] > LARGEST_SHOWN:
        shown = interpolate(picture[None].float(), LARGEST_SHOWN, mode="area")[0]
        picture = _rounded(shown)
    content = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(content, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def _rounded(values: Tensor) -> Tensor:
    return (values + 0.5).clamp(0, 255).to(torch.uint8)


def _stretched(deviation: Tensor) -> Tensor:
    """From black, where pictures differ least, to white, where they differ most."""
    lowest, highest = deviation.aminmax()
    return _rounded((deviation - lowest) * 255 / (highest - lowest).clamp(min=1e-6))


def _rows(pictures: Pictures, groups: list[list[int]], columns: int) -> list[Tensor]:
    """So many pictures of each group, filled up with white."""
    white = torch.full(tuple(pictures.pixels.shape[1:]), 255, dtype=torch.uint8)
    rows = [[*pictures[members[:columns]], *[white] * (columns - len(members))] for members in groups]
    return [picture for row in rows for picture in row]


def _save(pictures: list[Tensor], path: Path, columns: int) -> None:
    """A grid; of nothing none, and none is left of an earlier report."""
    path.unlink(missing_ok=True)
    if pictures:
        save_grid(pictures, path, columns)


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["stem"] = lambda name: PurePosixPath(name).stem
    environment.filters["percent"] = lambda part, whole: f"{100 * part / whole:.1f}%" if whole else "0%"
    return environment.get_template("inspection.html")
