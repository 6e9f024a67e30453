"""The config in a checkpoint: what it may hold and name, and what it leaves to the machine that it is opened on."""

import ast
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.config.signatures import find_definition, signature_of
from src.config.validation import OPTIMIZERS
from src.core.errors import UserError
from src.core.run_folder import read_config

# A config inside a checkpoint may name the classes that these modules define, and the documented optimizers.
ALLOWED_MODULES = ("src.models.", "src.networks.", "src.objectives.", "src.data.datamodule.", "src.core.schedules.")
# Options of data that belong to a machine or a user: no checkpoint holds them.
LOCAL_DATA_OPTIONS = ("root", "url", "digest", "cache_dir")
MAX_TEXT = 4096
MAX_PIXELS = {"num_images": 2**34, "batch_size": 2**28}  # of one channel: 4,194,304 images of 64 pixels, and 65,536
MAX_SIZES = {"num_images": 10_000_000, "batch_size": 65_536, "num_workers": 256}


def portable_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return what checkpoints hold of a run's config: model, seed, and data without paths and addresses."""
    data = {key: value for key, value in config["data"].items() if key not in LOCAL_DATA_OPTIONS}
    return {"model": config["model"], "seed": config["seed"], "data": data}


def local_data_options(
    stored: dict[str, Any], run_dir: Path | None, today: dict[str, Any] | None = None, typed: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the paths and addresses of a checkpoint's data, which the checkpoint itself does not hold.

    Those typed on the command line come first, then those of the run folder's config.yaml (no address: nothing is
    downloaded because a file says so), then those of today's config, if its data is of the same class.
    Raises UserError for a folder of images that is named nowhere.
    """
    before, today = read_config(run_dir).get("data"), today or {}
    known = dict(today) if today.get("_target_") == stored.get("_target_") else {}
    texts = before if isinstance(before, dict) else {}
    known |= {key: value for key, value in texts.items() if key != "url" and isinstance(value, str | None)}
    known |= {key: today[key] for key in today if any(item.startswith(f"data.{key}=") for item in typed)}
    if has_option(stored, "root", required=True) and not known.get("root"):
        raise UserError(
            "a checkpoint names no path, and it is not known where the images of this one are; "
            "add data.root=PATH (and data=folder where it is resumed)"
        )
    return {key: known[key] for key in LOCAL_DATA_OPTIONS if key in known}


def has_option(config: dict[str, Any], name: str, required: bool = False) -> bool:
    """Tell whether the constructor that a config names has an option, or one without a default."""
    signature = signature_of(str(config.get("_target_")))
    parameter = signature.parameters.get(name) if signature else None
    return parameter is not None and parameter.required >= required


def check_memory(data: dict[str, Any]) -> None:
    """Raise UserError where the config of a checkpoint's data asks for more than any machine has room for."""
    for key, most in MAX_PIXELS.items():
        match data.get("image_size"), data.get(key):
            case int(size), int(number) if number * size**2 > most:
                raise UserError(
                    f"the checkpoint's data asks for {key}={number:,} images of {size} pixels; at most "
                    f"{most // size**2:,} of these are allowed"
                )


def validate_config(node: Any, path: str) -> None:
    """Raise UserError unless a part of a checkpoint's config is plain data that names only what it may.

    Nothing is left for Hydra to resolve (`${...}`) or to call beyond a constructor with named arguments. A tuple,
    which is a list to Hydra, is refused.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str) or not key.isidentifier() or key in ("_args_", "_convert_", "_recursive_"):
                raise UserError(f"the checkpoint's {path} has a key {key!r:.80}, which no config here has: refused")
            validate_config(value, f"{path}.{key}")
            if key == "_target_" and not is_allowed_target(value):
                raise UserError(
                    f"the checkpoint's {path} asks for {value!s:.80}, which is no part of this project: refused"
                )
            if isinstance(value, int | float) and value > MAX_SIZES.get(key, math.inf):
                raise UserError(
                    f"the checkpoint's {path} asks for {key}={value}; at most {MAX_SIZES[key]:,} is allowed"
                )
    elif isinstance(node, list):
        for index, value in enumerate(node):
            validate_config(value, f"{path}[{index}]")
    elif isinstance(node, str) and not (node.isprintable() and len(node) < MAX_TEXT):
        raise UserError(f"the checkpoint's {path} holds {node!r:.80}, which is no text of a config: refused")
    elif isinstance(node, str) and "${" in node:
        raise UserError(f"the checkpoint's {path} holds {node:.80}, a reference to something outside of it: refused")
    elif not isinstance(node, str | int | float | bool | None):
        raise UserError(f"the checkpoint's {path} holds a {type(node).__name__}, which is no plain value: refused")


def is_allowed_target(target: Any) -> bool:
    """Tell whether a `_target_` is a documented optimizer or a class that an allowed module itself defines.

    Read from the source: by importing, `src.training.launcher.os.system` would be found too.
    """
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        return False
    module, node = (target.startswith(ALLOWED_MODULES) and find_definition(target)) or (None, None)
    return target in OPTIMIZERS or (isinstance(node, ast.ClassDef) and module == target.rpartition(".")[0])
