"""What differs between the configs of runs: their options, their seeds, and what their numbers are measured on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from src.reports.comparison.runs import RunRecord

ABSENT = "none"
PLACES = ("run_dir", "resume", "logger", "callbacks.image_grids.folder", "callbacks.checkpoints.folder")
# Parts of a config that decide what a metric's value means, and what of them does not.
MEASURED_ON = {
    "data": ("batch_size", "num_workers", "cache_dir", "seed", "augmentation", "horizontal_flip"),
    "metrics": ("weights_path",),
    "callbacks.evaluation": ("every_images", "batch_size", "cache_dir", "feature_metrics"),
}
Options = dict[str, Any]  # by name, with dots


def options_of(run: RunRecord) -> Options:
    """Return a run's config as plain options, without paths of its folder."""
    return dict(flat({key: value for key, value in run.config.items() if key not in PLACES}))


def flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options inside a part of a config by name; an object's class is the option of its own name."""
    if path in PLACES:
        return
    if not isinstance(node, Mapping):
        yield path, node
        return
    for key, value in node.items():
        name = path if key == "_target_" else f"{path}.{key}".lstrip(".")
        yield from [(name, str(value).rpartition(".")[2])] if key == "_target_" else flat(value, name)


def differences(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return the options that differ, each with its value in every run; ABSENT where a run has no such option.

    Where objects are of different classes, their own options say nothing and are left out. Of options that refer to one
    another, which end in the same word and have equal values everywhere, the shortest stands for all.
    """
    options = [options_of(run) for run in runs]
    names = list(dict.fromkeys(name for each in options for name in each))
    values = {name: [each.get(name, ABSENT) for each in options] for name in names}
    differing = {name: column for name, column in values.items() if any(value != column[0] for value in column)}
    classes = [name for name, column in differing.items() if any(other.startswith(f"{name}.") for other in names)]
    found: dict[str, list[Any]] = {}
    for name in sorted(differing, key=lambda name: (name.count("."), names.index(name))):
        same = [other for other in found if last(other) == last(name) and found[other] == differing[name]]
        if not same and not any(name.startswith(f"{parent}.") for parent in classes):
            found[name] = differing[name]
    return found


def last(name: str) -> str:
    """Return the last word of an option's name."""
    return name.rpartition(".")[2]


def grouped(runs: Sequence[RunRecord]) -> list[list[int]]:
    """Return the positions of runs whose configs differ in the seed alone, group by group."""
    found: dict[str, list[int]] = {}
    for position, run in enumerate(runs):
        options = {name: value for name, value in options_of(run).items() if last(name) != "seed"}
        found.setdefault(repr(sorted(options.items())), []).append(position)
    return list(found.values())


def incomparable(runs: Sequence[RunRecord]) -> list[str]:
    """Return the options by which the runs' metrics are of different images, networks or numbers of samples."""
    found = differences([replace(run, config=measured_on(run.config)) for run in runs])
    return [f"{name} ({', '.join(dict.fromkeys(map(shown, column)))})" for name, column in found.items()]


def measured_on(config: Mapping[str, Any]) -> Options:
    """Return the part of a config that decides what its metrics mean."""
    kept = {}
    for path, others in MEASURED_ON.items():
        node: Any = config
        for key in path.split("."):
            node = (node or {}).get(key)
        kept[path] = {key: value for key, value in (node or {}).items() if key not in others}
    return kept


def shown(value: Any) -> str:
    """Return an option's value as one reads it."""
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def labels(runs: Sequence[RunRecord], found: Mapping[str, Sequence[Any]], groups: Sequence[Sequence[int]]) -> list[str]:
    """Return a short name for each run, the same for a group's: the first options that tell the groups apart.

    Where three are too few for that, the folder of the group's first run is added.
    """
    names = [name for name in found if name != "seed"] or ["model"]
    columns = {name: found.get(name) or [options_of(run).get(name, run.name) for run in runs] for name in names}
    told: list[str] = []
    for count in range(1, 4):
        parts = [[f"{last(name)}={shown(columns[name][at])}" for name in names[:count]] for at in range(len(runs))]
        told = [", ".join(part) for part in parts]
        if len(set(told)) == len(groups):
            return told
    first = {at: runs[group[0]].name for group in groups for at in group}
    return [f"{label} ({first[at]})" for at, label in enumerate(told)]
