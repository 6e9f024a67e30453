"""Opening a trained model from its run folder or checkpoint, and the data to evaluate it on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from src.core.errors import UserError
from src.core.run_folder import resolve_checkpoint, run_dir_of
from src.models.base import GenerativeModel
from src.models.checkpoint.loading import build, has_option, load_model, local_data_options, read_checkpoint

SHARED_DATA_OPTIONS = ("image_size", "batch_size", "val_fraction", "split_seed")


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with what its checkpoint and its folder tell.

    config: the model, data and seed of its run. path: the checkpoint. folder: the run folder it lies in, or the file's
    own.
    """

    model: GenerativeModel
    config: dict[str, Any]
    path: Path
    folder: Path

    def data(self, given: dict[str, Any] | None = None, reference: Literal["train", "val"] = "train") -> Any:
        """Return the ImageDataModule of the run, or that of the options given instead; see data_config."""
        from src.data.datamodule import ImageDataModule

        given = {key: value for key, value in (given or {}).items() if value is not None}
        own = self.config["data"]
        config = data_config(own, given, reference) if given else own | local_data_options(own, run_dir_of(self.path))
        return build(config, "data", ImageDataModule)


def load_run(path: str | Path, device: str = "auto") -> LoadedRun:
    """Open a checkpoint, or the best one of a run folder: its model in evaluation mode on the device.

    Raises UserError where there is no such device, or no file that can be used.
    """
    checkpoint = resolve_checkpoint(path)
    content = read_checkpoint(checkpoint)
    folder = run_dir_of(checkpoint.resolve()) or checkpoint.resolve().parent
    return LoadedRun(load_model(content, choose_device(device)), content["config"], checkpoint, folder)


def choose_device(device: str) -> torch.device:
    """Return a device; auto: CUDA where there is one, else MPS, else the CPU. Raises UserError if it is absent."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device != "auto" and not there[device]:
        names = " or ".join(name for name in there if there[name])
        raise UserError(f"device={device}: there is none here; give {names}")
    return torch.device(next(name for name in there if there[name]) if device == "auto" else device)


def data_config(own: dict[str, Any], given: dict[str, Any], reference: Literal["train", "val"]) -> dict[str, Any]:
    """Return the config of other data than a run's own, at the image size of the model: reference=train is all of it.

    A root alone means the same kind of data there, or a folder if that kind has no root.
    """
    other = {"limit_images": None} | ({"val_fraction": 0.0} if reference == "train" else {})
    if "_target_" in given:
        return given | other | {"image_size": own["image_size"]}
    if has_option(own, "root"):
        return own | other | given
    shared = {key: value for key, value in own.items() if key in SHARED_DATA_OPTIONS}
    return {"_target_": "src.data.datamodule.FolderDataModule"} | shared | other | given
