"""A checkpoint explains itself: the resolved config is inside, so a model is rebuilt from the file alone."""

import itertools
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from src.config.validation import check, check_value
from src.core.errors import UserError
from src.core.types import Seed
from src.models.base import GenerativeModel
from src.models.seal import is_damaged
from src.models.untrusted import UntrustedFile, read_plain
from src.models.vetting import build, vet

REGISTRATIONS = (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Tensors and plain Python values; UserError where the file is no checkpoint of this project."""
    refused = f"{path} is no checkpoint of this project; give one of a run folder (checkpoints/best.ckpt)"
    if not Path(path).is_file():
        raise UserError(f"can't read the checkpoint {path}: there is no such file")
    if not zipfile.is_zipfile(path):
        raise UserError(refused)
    if is_damaged(Path(path)):
        raise UserError(f"the checkpoint {path} is damaged: its content is not what its digest says; give another one")
    try:
        checkpoint = read_plain(Path(path))
    except OSError as error:
        raise UserError(f"can't read the checkpoint {path}: {error.strerror or error}") from error
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        MemoryError,
        zipfile.BadZipFile,
        UntrustedFile,
    ) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0][:200]
        raise UserError(
            f"{path} is no checkpoint that can be trusted and read ({reason}); give one of a run folder"
        ) from error
    parts = {"config": dict, "state_dict": dict, "images_seen": int}
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(k), kind) for k, kind in parts.items()):
        raise UserError(refused)
    if not all(isinstance(checkpoint["config"].get(part), dict) for part in ("model", "data")):
        raise UserError(refused)
    states = checkpoint.get("callbacks", {})
    if not isinstance(states, dict) or not all(isinstance(state, dict) for state in states.values()):
        raise UserError(f"the checkpoint {path} holds callbacks' states that are none; give another one")
    return checkpoint


def with_recipe_of(checkpoint: dict[str, Any], config: dict[str, Any], typed: list[str]) -> dict[str, Any]:
    """The config of a run that goes on: model, data and seed are the checkpoint's, the rest is today's.

    typed: the overrides on the command line. UserError if they ask for another model, other data or another seed.
    """
    stored = dict(checkpoint["config"])
    # Where decoded images are kept is for today's command line to say, not for a file.
    stored["data"] = elsewhere(stored["data"], config["data"].get("cache_dir"))
    asked = {re.split(r"[=./@]", override.lstrip("+~"))[0] for override in typed}
    for part in ("model", "data", "seed"):
        if part not in stored:
            raise UserError(f"the checkpoint's config lacks {part}; give another one")
        vet(stored[part], part)
        if part == "seed":
            check_value(f"the checkpoint's {part}", stored[part], Seed)
        check(stored[part], part)
        if asked & {part, "experiment", "debug"} and config[part] != stored[part]:
            keys = ", ".join(differences(config[part], stored[part], part))
            raise UserError(f"a resumed run keeps its model, data and seed, but {keys} would change; leave it out")
    refuse_misfit(checkpoint)
    return config | {part: stored[part] for part in ("model", "data", "seed")}


def elsewhere(data: dict[str, Any], cache_dir: str | None) -> dict[str, Any]:
    """A data config whose decoded images are kept in another folder."""
    return data | {"cache_dir": cache_dir} if "cache_dir" in data else data


def differences(ours: Any, theirs: Any, path: str) -> list[str]:
    """The keys at which two configs differ."""
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return [] if ours == theirs else [path]
    keys = [*ours, *(key for key in theirs if key not in ours)]
    return [found for key in keys for found in differences(ours.get(key), theirs.get(key), f"{path}.{key}")]


def refuse_misfit(checkpoint: dict[str, Any]) -> None:
    """UserError unless the config's model and the file's tensors fit, found out without memory for the model."""
    state = checkpoint["state_dict"]
    with torch.device("meta"), at_most_parts(100 + 20 * len(state)):
        model: GenerativeModel = build(checkpoint["config"]["model"], "model", GenerativeModel)  # type: ignore[type-abstract]
    floating = {name: tensor.is_floating_point() for name, tensor in model.state_dict().items()}
    load_weights(model, checkpoint, assign=True)
    for name, is_floating in floating.items():
        if state[name].is_floating_point() != is_floating:
            raise UserError(
                f"the checkpoint's weights do not fit the model of the config: {name} is {state[name].dtype}"
            )


@contextmanager
def at_most_parts(most: int) -> Iterator[None]:
    """UserError as soon as what is built has more modules and tensors than that."""
    parts = itertools.count(1)

    def count(*args: Any) -> None:
        if next(parts) > most:
            raise UserError(
                "the checkpoint's weights do not fit the model of the config: it has far more than the file"
            )

    hooks = [register(count) for register in REGISTRATIONS]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def load_weights(model: GenerativeModel, checkpoint: dict[str, Any], assign: bool = False) -> None:
    try:
        model.load_state_dict(checkpoint["state_dict"], assign=assign)
    except (RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the checkpoint's weights do not fit the model of the config: {reason}") from error
    model.images_seen = checkpoint["images_seen"]


def load_model(checkpoint: dict[str, Any], device: torch.device | str = "cpu") -> GenerativeModel:
    """The model as it was trained, in evaluation mode."""
    refuse_misfit(checkpoint)
    model: GenerativeModel = build(checkpoint["config"]["model"], "model", GenerativeModel)  # type: ignore[type-abstract]
    load_weights(model, checkpoint)
    return model.eval().to(device)
