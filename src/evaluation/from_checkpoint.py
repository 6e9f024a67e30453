"""Opening a trained model from its checkpoint, and the data it is evaluated on: one way for every command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from src.core.errors import UserError
from src.models.base import GenerativeModel
from src.models.checkpoint import elsewhere, load_model, read_checkpoint
from src.models.vetting import build

SHARED_DATA_OPTIONS = ("image_size", "batch_size", "val_fraction", "split_seed")


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with what its checkpoint and its folder tell.

    config: the resolved config of its run. path: the checkpoint. folder: the run folder it lies in, or the file's own.
    """

    model: GenerativeModel
    config: dict[str, Any]
    path: Path
    folder: Path

    def data(self, given: dict[str, Any] | None = None, reference: Literal["train", "val"] = "train") -> Any:
        """Return the ImageDataModule of the run, or that of the options given instead; see data_config."""
        from src.data.datamodule import ImageDataModule

        return build(data_config(self.config["data"], given or {}, reference), "data", ImageDataModule)


def load_run(checkpoint: str | Path, device: str = "auto") -> LoadedRun:
    """Open a checkpoint: its model in evaluation mode on the device. Raises UserError where the file can't be used."""
    content, path = read_checkpoint(checkpoint), Path(checkpoint)
    parent = path.resolve().parent
    folder = parent.parent if parent.name == "checkpoints" else parent
    return LoadedRun(load_model(content, choose_device(device)), content["config"], path, folder)


def choose_device(device: str) -> torch.device:
    """auto: CUDA where there is one, else MPS, else the CPU. UserError for a device that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device != "auto" and not there[device]:
        raise UserError(
            f"device={device}: there is none here; give {' or '.join(name for name in there if there[name])}"
        )
    return torch.device(next(name for name in there if there[name]) if device == "auto" else device)


def data_config(
    of_the_run: dict[str, Any], given: dict[str, Any], reference: Literal["train", "val"]
) -> dict[str, Any]:
    """The run's own data, or what is given instead, at the image size of the model.

    A root alone means the run's own kind of data there, or a folder if that kind has no root. Of other data than the
    run's own, reference=train means every image.
    """
    given = {key: value for key, value in given.items() if value is not None}
    of_the_run = elsewhere(of_the_run, None)
    if not given:
        return of_the_run
    other = {"limit_images": None} | ({"val_fraction": 0.0} if reference == "train" else {})
    if "_target_" in given:
        return given | other | {"image_size": of_the_run["image_size"]}
    if "root" in of_the_run:
        return of_the_run | other | given
    shared = {key: value for key, value in of_the_run.items() if key in SHARED_DATA_OPTIONS}
    return {"_target_": "src.data.datamodule.FolderDataModule"} | shared | other | given
