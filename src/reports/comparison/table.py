"""The runs of a comparison side by side: what differs, a row of numbers for each, and which is the best."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src.core.files import write_atomic
from src.core.run_folder import rows_text
from src.reports.comparison.differences import ABSENT, MEASURED_ON, differences, last, shown
from src.reports.comparison.runs import RunRecord

Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Runs and what follows from them; positions are those of the runs."""

    runs: Sequence[RunRecord]

    @cached_property
    def differing(self) -> dict[str, list[Any]]:
        return differences([run.options for run in self.runs])

    @cached_property
    def groups(self) -> list[list[int]]:
        """The positions of runs whose configs differ in the seed alone, group by group."""
        found: dict[str, list[int]] = {}
        for position, run in enumerate(self.runs):
            options = {name: value for name, value in run.options.items() if last(name) != "seed"}
            found.setdefault(repr(sorted(options.items())), []).append(position)
        return list(found.values())

    @cached_property
    def labels(self) -> list[str]:
        """A short name for each run, the same for a group's: three options that differ, or as many as there are.

        Where they do not tell the groups apart, the folder of the group's first run is added.
        """
        options = [name for name in self.differing if name != "seed"][:3] or ["model"]
        values = [[f"{last(name)}={shown(run.options.get(name, ABSENT))}" for name in options] for run in self.runs]
        labels = [", ".join(each) for each in values]
        if len(set(labels)) == len(self.groups):
            return labels
        first = {at: self.runs[group[0]].name for group in self.groups for at in group}
        return [f"{label} ({first[at]})" for at, label in enumerate(labels)]

    @cached_property
    def names(self) -> list[str]:
        """The labels, with the seed or, if need be, the folder where several runs have the same."""
        names = self.labels
        for more in ([f"seed={run.config.get('seed')}" for run in self.runs], [run.name for run in self.runs]):
            names = [f"{name}, {own}" if names.count(name) > 1 else name for name, own in zip(names, more, strict=True)]
        return names

    @cached_property
    def incomparable(self) -> list[str]:
        """The options by which the runs' metrics are of different images, networks or numbers of samples."""
        measured = [{name: run.options[name] for name in run.options if MEASURED_ON.match(name)} for run in self.runs]
        found = differences(measured)
        return [f"{name} ({', '.join(dict.fromkeys(map(shown, column)))})" for name, column in found.items()]

    @cached_property
    def monitor(self) -> str | None:
        """The metric by which the runs can be ranked: the one that all of them monitor."""
        monitors = {run.monitor for run in self.runs}
        return monitors.pop() if len(monitors) == 1 else None

    @cached_property
    def ranking(self) -> list[tuple[float, list[int]]]:
        """The runs that are not ruined, in groups, by the mean of their best values; empty if they don't compare."""
        sound = [[at for at in group if not self.runs[at].ruin] for group in self.groups]
        values = [(mean_and_spread([self.best[at] for at in group])[0], group) for group in sound]
        return [] if self.incomparable else sorted((mean, group) for mean, group in values if mean is not None)

    @cached_property
    def winner(self) -> int | None:
        """The position of the best run of those in the ranking."""
        values = [(self.best[at], at) for _, group in self.ranking for at in group]
        return min(((value, at) for value, at in values if value is not None), default=(0, None))[1]

    @cached_property
    def best(self) -> list[float | None]:
        """Each run's lowest value of the metric that all runs monitor."""
        return [run.best(self.monitor or "") for run in self.runs]

    @cached_property
    def conclusions(self) -> list[str]:
        """The sentences that a reader wants first: which is the best, and what not to trust."""
        said = []
        if self.incomparable:
            what = "; ".join(self.incomparable)
            said.append(f"The runs' numbers may not be compared: they were measured on different things: {what}.")
        if self.ranking:
            first, *others = [self.in_words(group) for _, group in self.ranking]
            text = f"Best by {self.monitor}, the lower the better: {first}."
            if others:
                gap = self.ranking[1][0] - self.ranking[0][0]
                spreads = [mean_and_spread([self.best[at] for at in group])[1] or 0 for _, group in self.ranking[:2]]
                text += f" Next: {others[0]}."
                if len(self.groups) == len(self.runs):
                    text += " One run each: other seeds may change the order."
                elif gap < max(spreads):
                    text += " They differ by less than the seeds do."
            said.append(text)
        seen = sorted({run.images_seen for run in self.runs})
        if len(seen) > 1:
            said.append(f"Not all runs have seen as many images: {seen[0]:,} to {seen[-1]:,}.")
        return said + [
            f"Ruined: {name}: {run.ruin}." for name, run in zip(self.names, self.runs, strict=True) if run.ruin
        ]

    def in_words(self, group: Sequence[int]) -> str:
        """Return a group's label with the mean and spread of its best values."""
        mean, spread = mean_and_spread([self.best[at] for at in group])
        return f"{self.labels[group[0]]}, {mean:.4g}" + (f" ± {spread:.2g} ({len(group)} seeds)" if spread else "")

    @cached_property
    def metrics(self) -> list[str]:
        """The names of all metrics: those of samples, of held-out images and of training."""
        names = dict.fromkeys(name for run in self.runs for name in run.curves if not name.startswith("warnings/"))
        return sorted(names, key=lambda name: (name != self.monitor, name.startswith("train/"), "/" in name))

    @property
    def diversity(self) -> str | None:
        """The metric of how varied samples are, of the first network."""
        return next((name for name in self.metrics if name.startswith("diversity_")), None)

    @cached_property
    def rows(self) -> list[Row]:
        """What is known of each run by column; None where nothing is."""
        return [self.row(position) for position in range(len(self.runs))]

    def row(self, position: int) -> Row:
        run = self.runs[position]
        trained = run.curves.get("train/images_per_second")
        speed = statistics.fmean(value for _, value in trained) if trained else None
        numbers = {
            f"{metric} {which}": value
            for metric in self.metrics
            for which, value in (("best", run.best(metric)), ("final", run.final(metric)))
        }
        parameters = run.summary.get("parameters") or {}  # averages are copies of their networks
        return {
            "run": run.name,
            **{name: shown(column[position]) for name, column in self.differing.items()},
            "status": run.status,
            "images_seen": run.images_seen,
            "best_images_seen": run.best_images,
            **numbers,
            "images_per_second": run.summary.get("images_per_second") or speed,
            "processor_seconds": run.summary.get("processor_seconds"),
            "wall_time_seconds": run.summary.get("wall_time_seconds"),
            "parameters": sum(count for name, count in parameters.items() if not name.endswith("_ema")) or None,
            "seed": run.config.get("seed"),
            "warnings": run.warnings,
        }


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write rows as CSV, with the columns of all of them."""
    write_atomic(path, rows_text(list(dict.fromkeys(column for row in rows for column in row)), rows))


def mean_and_spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Return the mean and the standard deviation of the values that are there; None for what they are too few for."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None
