"""A set of pictures at a glance: numbers and examples on one page."""

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

from src.data.datamodule import ImageDataModule
from src.data.pictures import Pictures
from src.html import data_uri, template
from src.inspection_page.measures import Statistics, below, histogram, in_both_at_random, members_of, original_sizes
from src.pictures import save_grid

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
    groups = members_of(pictures.groups)
    dark, flat = below(statistics.brightness, limits.too_dark), below(statistics.contrast, limits.low_contrast)
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
    page = template(__file__).render(
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
        sizes=original_sizes(subject.sizes),
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
    return data_uri("image/webp", content.getvalue())


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
