"""What differs between the configs of runs: their options, and what their numbers are measured on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ABSENT = "none"
# callbacks.study is where the first seed of a search's trial reports to, callbacks.step_seeds of earlier versions.
CALLBACKS = ("callbacks.image_grids.folder", "callbacks.checkpoints.folder", "callbacks.study", "callbacks.step_seeds")
PLACES = ("run_dir", "resume", "logger", *CALLBACKS)
# The options that decide what a metric's value means.
MEASURED_ON = re.compile(
    r"data(?!\.(batch_size|num_workers|cache_dir|seed|augmentation|horizontal_flip)\b)\b"
    r"|metrics(?!\.weights_path\b)\b"
    r"|callbacks\.evaluation(?!\.(every_images|cache_dir|feature_metrics)\b)\b"
)
Options = dict[str, Any]  # by name, with dots


def flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options inside a part of a config by name, without places; an object's class has the object's name."""
    if path in PLACES:
        return
    if not isinstance(node, Mapping):
        yield path, node
        return
    for key, value in node.items():
        if key == "_target_":
            yield path, str(value).rpartition(".")[2]
        else:
            yield from flat(value, f"{path}.{key}".lstrip("."))


def differences(options: Sequence[Options]) -> dict[str, list[Any]]:
    """Return the options that differ between runs, each with its value in every run; ABSENT where a run has none.

    Where objects are of different classes, their own options say nothing and are left out. Of options that refer to one
    another, which end in the same word and have equal values everywhere, the shortest stands for all.
    """
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


def shown(value: Any) -> str:
    """Return an option's value as one reads it."""
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
