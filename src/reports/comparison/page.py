"""The page of a comparison: one HTML file that needs no other, and no network."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from src.core.files import write_atomic
from src.reports.comparison.differences import shown
from src.reports.comparison.runs import Curve
from src.reports.comparison.table import Comparison, mean_and_spread
from src.reports.html import grid_uri, template

COLORS = ("#1c8fd6", "#d55e00", "#0a9e78", "#c25c9d", "#b58900", "#7a68c7", "#8a8f96", "#c0392b")
DASHES = ("solid", "dash", "dot", "dashdot")
MAX_POINTS = 400  # of a curve; of more, every second, third, ... is drawn
MAX_WIDTH, ROWS = 540, 4  # of a grid on the page: the pixels of its images side by side, and its rows


def write_page(comparison: Comparison, path: Path, num_steps: int = 8) -> None:
    """Write the page. num_steps: the most times at which a run's images are shown."""
    content = template(__file__).render(
        comparison=comparison,
        groups=[summary_of(comparison, number) for number in range(len(comparison.groups))],
        charts=[chart(comparison, metric) for metric in comparison.metrics],
        grids={kind: grids(comparison, kind, num_steps) for kind in ("samples", "reconstructions")},
        plotly=Markup(get_plotlyjs()),
    )
    write_atomic(path, content)


def summary_of(comparison: Comparison, number: int) -> dict[str, Any]:
    """Return what a page tells of runs that differ in the seed alone: mean and spread of each metric, among others."""
    group = comparison.groups[number]
    runs = [comparison.runs[at] for at in group]
    names = [name for name in comparison.metrics if not name.startswith("train/")]
    return {
        "label": comparison.labels[group[0]],
        "options": {
            name: ", ".join(dict.fromkeys(shown(column[at]) for at in group))
            for name, column in comparison.differing.items()
        },
        "line": line_of(number),
        "size": len(runs),
        "ruined": sum(bool(run.ruin) for run in runs),
        "best": {name: mean_and_spread([run.best(name) for run in runs]) for name in names},
        "final": {name: mean_and_spread([run.final(name) for run in runs]) for name in names},
    }


def line_of(group: int) -> dict[str, Any]:
    """Return the color and the dashes of a group's lines."""
    return {"color": COLORS[group % len(COLORS)], "dash": DASHES[group // len(COLORS) % len(DASHES)], "width": 2}


def chart(comparison: Comparison, metric: str) -> dict[str, Any]:
    """Return a metric's name and Plotly's traces: a line for each run; of several seeds, mean and range too."""
    traces: list[dict[str, Any]] = []
    for number, group in enumerate(comparison.groups):
        curves = {comparison.names[at]: comparison.runs[at].curves.get(metric, []) for at in group}
        curves, line = {name: curve for name, curve in curves.items() if curve}, line_of(number)
        several = len(curves) > 1
        for name, curve in curves.items():
            traces.append(trace(curve, name, line | {"width": 1}, opacity=0.4) if several else trace(curve, name, line))
        if several:
            traces += mean_and_range(list(curves.values()), f"{comparison.labels[group[0]]}, mean", line)
    return {"metric": metric, "traces": traces}


def mean_and_range(curves: Sequence[Curve], name: str, line: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the traces of the curves' mean and of their range, from lowest to highest, where all have a value."""
    values = [dict(curve) for curve in curves]
    there = [at for at in values[0] if all(at in each for each in values)]
    lowest, mean, highest = (
        [(at, statistic([each[at] for each in values])) for at in there] for statistic in (min, statistics.fmean, max)
    )
    filled = {"fill": "tonexty", "fillcolor": f"{line['color']}28"}
    return [
        trace(lowest, "", {"width": 0}, hoverinfo="skip"),
        trace(highest, "", {"width": 0}, hoverinfo="skip", **filled),
        trace(mean, name, line),
    ]


def trace(curve: Curve, name: str, line: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return a curve as Plotly draws it."""
    points = curve[:: -max(1, math.ceil(len(curve) / MAX_POINTS))][::-1]
    heights = [float(f"{value:.5g}") if math.isfinite(value) else None for _, value in points]
    return {"x": [at for at, _ in points], "y": heights, "name": name, "mode": "lines", "line": line} | options


def grids(comparison: Comparison, kind: str, num_steps: int) -> list[dict[str, Any]]:
    """Return each run's name and at most so many of its grids, evenly from first to last, by the images seen."""
    found = []
    for name, run in zip(comparison.names, comparison.runs, strict=True):
        files = list(run.images(kind).items())
        chosen = np.linspace(len(files) - 1, 0, min(num_steps, len(files))).round().astype(int)[::-1]
        size = (run.config.get("data") or {}).get("image_size", 64)
        columns = max(MAX_WIDTH // size, 2)
        steps = [(files[at][0], grid_uri(files[at][1], size, columns, min(columns, ROWS), quality=80)) for at in chosen]
        if steps:
            found.append({"name": name, "ruin": run.ruin, "steps": steps})
    return found
