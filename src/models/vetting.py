"""A config out of a checkpoint is data: what it may name and hold, and what is built of it."""

import ast
import math
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from src.config.signatures import find_definition
from src.config.validation import OPTIMIZERS, check
from src.core.errors import UserError
from src.data.public import AFHQCat, CatFaces

# All that a config inside a checkpoint may name: classes that these modules define, and these optimizers.
OWN = (
    "src.models.",
    "src.networks.",
    "src.objectives.",
    "src.data.datamodule",
    "src.networks.augmentation",
    "src.core.schedules",
)
LONGEST_TEXT = 4096  # as long as a path may be
# Of larger ones the user must say that they are meant.
LARGEST = {"num_images": 10_000_000, "batch_size": 65_536, "num_workers": 256}
PUBLIC_URLS = (CatFaces.URL, AFHQCat.URL)
Built = TypeVar("Built")


def vet(node: Any, path: str) -> None:
    """Raises UserError unless a checkpoint's config is plain data that names only what it may.

    Nothing is left for Hydra to resolve (`${...}`) or to call beyond a constructor with named arguments, tuples, which
    are lists to Hydra, among it.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str) or not key.isidentifier() or key in ("_args_", "_convert_", "_recursive_"):
                raise UserError(
                    f"the checkpoint's {path} has a key {key!r:.80}, which no config of this project has: refused"
                )
            vet(value, f"{path}.{key}")
            if key == "_target_" and not may_be_named(value):
                raise UserError(f"the checkpoint's {path} asks for {value}, which is no part of this project: refused")
            if key == "url" and value not in PUBLIC_URLS:
                raise UserError(f"the checkpoint's {path} would download from {value}; if you want that, add data=...")
            if isinstance(value, int | float) and value > LARGEST.get(key, math.inf):
                raise UserError(
                    f"the checkpoint's {path} asks for {key}={value}; {LARGEST[key]:,} is the most: refused"
                )
    elif isinstance(node, list):
        for index, value in enumerate(node):
            vet(value, f"{path}[{index}]")
    elif isinstance(node, str) and not (node.isprintable() and len(node) < LONGEST_TEXT):
        raise UserError(f"the checkpoint's {path} holds {node!r:.80}, which is no text of a config: refused")
    elif isinstance(node, str) and "${" in node:
        raise UserError(f"the checkpoint's {path} holds {node}, a reference to something outside of it: refused")
    elif not isinstance(node, str | int | float | bool | None):
        raise UserError(f"the checkpoint's {path} holds a {type(node).__name__}, which is no plain value: refused")


def may_be_named(target: Any) -> bool:
    """Whether it is a documented optimizer or a class that OWN modules define.

    Read from the source: by importing, `src.training.launcher.os.system` would be found too.
    """
    definition = find_definition(target) if isinstance(target, str) and target.startswith(OWN) else None
    return target in OPTIMIZERS or (
        definition is not None
        and isinstance(definition[1], ast.ClassDef)
        and definition[0] == target.rpartition(".")[0]
    )


def build(config: dict[str, Any], path: str, kind: type[Built]) -> Built:
    """Instantiates a part of a checkpoint's config, once vetted: a `kind`, or UserError."""
    vet(config, path)
    try:
        built = instantiate(check(config, path), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from error
        raise UserError(f"the checkpoint's {path} can't be built: {' '.join(str(cause).split())[:200]}") from error
    if not isinstance(built, kind):
        raise UserError(f"the checkpoint's {path} is no {kind.__name__}: refused")
    return built
