"""A checkpoint explains itself: the resolved config is inside, so a model is rebuilt from the file alone."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from src.errors import UserError
from src.models.generative_model import GenerativeModel

# All that a config inside a checkpoint may name, besides this project's own classes.
DOCUMENTED = ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD", "torch.optim.RMSprop")
SHARED_DATA_OPTIONS = ("image_size", "batch_size", "val_fraction", "split_seed")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Tensors and plain Python values; UserError where the file is no checkpoint of this project."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"can't read the checkpoint {path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise UserError(f"{path} is no checkpoint that can be trusted and read ({reason}); give one of a run folder") from error
    if not isinstance(checkpoint, dict) or not {"config", "state_dict", "images_seen"} <= checkpoint.keys():
        raise UserError(f"{path} is no checkpoint of this project; give one of a run folder (checkpoints/best.ckpt)")
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


def build(config: dict[str, Any]) -> Any:
    """Instantiates a part of a checkpoint's config, which may name only what this project documents."""
    for target in targets(config):
        if not target.startswith("src.") and target not in DOCUMENTED:
            raise UserError(f"the checkpoint asks for {target}, which is no part of this project: refused")
    return instantiate(config)


def load_model(checkpoint: dict[str, Any], device: torch.device | str = "cpu") -> GenerativeModel:
    """The model as it was trained, in evaluation mode."""
    model: GenerativeModel = build(checkpoint["config"]["model"])
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"the checkpoint's weights do not fit its config: {error}") from error
    model.images_seen = checkpoint["images_seen"]
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
