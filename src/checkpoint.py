"""A checkpoint explains itself: the resolved config is inside, so a model is rebuilt from the file alone."""

import ast
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from src.check import check, find_definition
from src.errors import UserError
from src.models.generative_model import GenerativeModel

# All that a config inside a checkpoint may name: classes that these modules define, and these optimizers.
OWN = ("src.models.", "src.networks.", "src.objectives.", "src.data.datamodule")
OPTIMIZERS = ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD", "torch.optim.RMSprop")
SHARED_DATA_OPTIONS = ("image_size", "batch_size", "val_fraction", "split_seed")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Tensors and plain Python values; UserError where the file is no checkpoint of this project."""
    refused = f"{path} is no checkpoint of this project; give one of a run folder (checkpoints/best.ckpt)"
    if not Path(path).is_file():
        raise UserError(f"can't read the checkpoint {path}: there is no such file")
    if not zipfile.is_zipfile(path):
        raise UserError(refused)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
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
    ) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise UserError(
            f"{path} is no checkpoint that can be trusted and read ({reason}); give one of a run folder"
        ) from error
    parts = {"config": dict, "state_dict": dict, "images_seen": int}
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(k), kind) for k, kind in parts.items()):
        raise UserError(refused)
    if not all(isinstance(checkpoint["config"].get(part), dict) for part in ("model", "data")):
        raise UserError(refused)
    return checkpoint


def targets(node: Any) -> Iterator[str]:
    """Every class that a config names."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for item in node:
            yield from targets(item)


def may_be_named(target: str) -> bool:
    """Read from the source, as `src.launch.os.system` would be found by importing."""
    definition = find_definition(target)
    return target in OPTIMIZERS or (
        definition is not None
        and isinstance(definition[1], ast.ClassDef)
        and definition[0] == target.rpartition(".")[0]
        and target.startswith(OWN)
    )


def build(config: dict[str, Any], path: str) -> Any:
    """Instantiates a part of a checkpoint's config, which may name only what this project documents."""
    for target in targets(config):
        if not may_be_named(target):
            raise UserError(f"the checkpoint's {path} asks for {target}, which is no part of this project: refused")
    return instantiate(check(config, path), _convert_="all")


def load_weights(model: GenerativeModel, checkpoint: dict[str, Any]) -> None:
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the checkpoint's weights do not fit the model of the config: {reason}") from error
    model.images_seen = checkpoint["images_seen"]


def load_model(checkpoint: dict[str, Any], device: torch.device | str = "cpu") -> GenerativeModel:
    """The model as it was trained, in evaluation mode."""
    model: GenerativeModel = build(checkpoint["config"]["model"], "model")
    load_weights(model, checkpoint)
    return model.eval().to(device)


def data_config(of_the_run: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The run's own data, or what is given instead, at the picture size of the model.

    A root alone means the run's own kind of data there, or a folder if that kind has no root.
    """
    given = {key: value for key, value in given.items() if value is not None}
    if "_target_" in given:
        return given | {"image_size": of_the_run["image_size"]}
    if given and "root" not in of_the_run:
        shared = {key: value for key, value in of_the_run.items() if key in SHARED_DATA_OPTIONS}
        return {"_target_": "src.data.datamodule.FolderDataModule", **shared, **given}
    return of_the_run | given
