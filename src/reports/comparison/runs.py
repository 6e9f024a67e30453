"""Runs as their folders tell of them: config, curves, summary, images, and how each ended. Needs no torch."""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import Any

from src.core.errors import UserError
from src.core.files import natural_order
from src.core.run_folder import CONFIG, ERROR, IMAGES, METRICS, SUMMARY, read_config, read_rows
from src.reports.comparison.differences import Options, flat

LOW_DIVERSITY = 0.1  # relative to real images; TrainingWarnings, which watches GANs only, begins at 0.4
RUINOUS = {
    "modes_collapse": "modes collapsed",
    "logits_explode": "logits exploded",
    "discriminator_at_chance": "discriminator at chance",
}
Curve = list[tuple[int, float]]  # images seen and value, in this order


@dataclass(frozen=True)
class RunRecord:
    """A run that was read from its folder. name: what tells it from the other runs, part of its path."""

    folder: Path
    name: str
    config: dict[str, Any]
    curves: dict[str, Curve]
    summary: dict[str, Any]  # empty before the run's end
    error: str  # the sentence of a run that failed

    @cached_property
    def options(self) -> Options:
        """The config as plain options, without paths of its folder."""
        return dict(flat(self.config))

    @property
    def images_seen(self) -> int:
        return max((curve[-1][0] for curve in self.curves.values()), default=0)

    @property
    def monitor(self) -> str | None:
        """The metric that chooses the best checkpoint, before the name of a fitted prior: the lower the better."""
        return (self.config.get("metrics") or {}).get("monitor")

    def curve(self, metric: str) -> Curve:
        """Return a metric's curve; of the monitored one, for samples of the prior that the model is sampled from."""
        mixture = f"{metric}_mixture"
        return self.curves.get(mixture if metric == self.monitor and mixture in self.curves else metric, [])

    @cached_property
    def best_images(self) -> int | None:
        """The images seen where the monitored metric was the lowest."""
        values = [(value, images) for images, value in self.curve(self.monitor or "") if math.isfinite(value)]
        return min(values)[1] if values else None

    def final(self, metric: str) -> float | None:
        """Return a metric's last value."""
        curve = self.curve(metric)
        return curve[-1][1] if curve else None

    def best(self, metric: str) -> float | None:
        """Return a metric's value at the best checkpoint."""
        return dict(self.curve(metric)).get(self.best_images or -1)

    @property
    def warnings(self) -> str:
        """From where to where each warning stood, in images seen."""
        said = []
        for name in filter(lambda name: name.startswith("warnings/"), self.curves):
            turns = [*(f"{images:,}" for images, _ in self.curves[name]), "the end"]
            spans = [f"from {start} to {end}" for start, end in zip(turns[::2], turns[1::2], strict=False)]
            said.append(f"{name.removeprefix('warnings/')} {', '.join(spans)}")
        return "; ".join(said)

    @property
    def ruin(self) -> str:
        """What made the run useless, in words, or nothing."""
        if self.error:
            return f"not finite: {self.error}" if "not finite" in self.error else f"failed: {self.error}"
        standing = [words for kind, words in RUINOUS.items() if self.final(f"warnings/{kind}")]
        diversities = {name: self.final(name) for name in self.curves if name.startswith("diversity_")}
        low = [
            f"{name} {value:.2g}" for name, value in diversities.items() if value is not None and value < LOW_DIVERSITY
        ]
        # A gradient under 16-mixed may be infinite in a sound run.
        broken = [name for name in self.curves if not (math.isfinite(self.final(name) or 0) or "gradient_norm" in name)]
        if standing or low:
            return f"{' and '.join(standing) or 'samples all alike'}{f' ({low[0]})' if low else ''}"
        return f"not finite: {', '.join(broken)}" if broken else ""

    @property
    def status(self) -> str:
        """How the run ended, in words: "finished" is what one hopes for."""
        length = self.config.get("max_images") or 0
        if self.ruin or self.images_seen >= length:
            return self.ruin or "finished"
        return f"{self.images_seen:,} of {length:,} images, stopped or still running"

    def images(self, kind: str) -> dict[int, Path]:
        """Return the grids of a kind, samples or reconstructions, by the images seen."""
        found = {path: re.fullmatch(rf"{kind}_(\d+)\.png", path.name) for path in (self.folder / IMAGES).glob("*.png")}
        return dict(sorted((int(match[1]), path) for path, match in found.items() if match))


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Read runs from their folders."""
    parent = os.path.commonpath([folder.parent for folder in folders]) if folders else ""
    return [read_run(folder, os.path.relpath(folder, parent)) for folder in folders]


def read_run(folder: Path, name: str) -> RunRecord:
    """Read a run from its folder; what is missing or broken is empty."""
    columns, rows = read_rows(folder / METRICS)
    # The numbered columns are parts of a spectrum.
    curves = {
        column: [(int(float(row["images_seen"])), float(row[column])) for row in rows if row.get(column)]
        for column in columns
        if column != "images_seen" and not re.search(r"/\d+$", column)
    }
    error, summary = folder / ERROR, {}
    with suppress(OSError, ValueError):
        summary = json.loads((folder / SUMMARY).read_text())
    said = error.read_text().strip() if error.is_file() else ""
    return RunRecord(folder, name, read_config(folder), {k: v for k, v in curves.items() if v}, summary, said)


def find_runs(paths: Sequence[str]) -> list[Path]:
    """Return the run folders that paths mean: run folders, folders that hold some (of sweeps, studies), patterns.

    Raises UserError for a path at which there is no run.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given).expanduser()
        folders = [path] if path.exists() else map(Path, sorted(glob(str(path)), key=natural_order))
        runs = [run.absolute() for folder in folders for run in runs_below(folder)]
        if not runs:
            raise UserError(f"{given}: there is no run here; give run folders, or a folder that holds some (a sweep)")
        found |= dict.fromkeys(runs)
    return list(found)


def runs_below(folder: Path) -> Iterator[Path]:
    """Yield a folder if it is a run's, else the run folders in it, at any depth."""
    if (folder / CONFIG).is_file():
        yield folder
    elif folder.is_dir():
        for child in sorted(folder.iterdir(), key=lambda child: natural_order(child.name)):
            if child.is_dir() and not child.name.startswith("."):
                yield from runs_below(child)
