"""Opening a trained model from its run folder or checkpoint, and the data to evaluate it on."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from src.core.errors import UserError
from src.core.run_folder import resolve_checkpoint, run_dir_of
from src.models.checkpoint.config import has_option, local_data_options
from src.models.checkpoint.loading import build, load_inference_model, load_model, read_checkpoint
from src.models.inference import InferenceModel

if TYPE_CHECKING:
    from src.models.base import GenerativeModel

SHARED_DATA_OPTIONS = ("image_size", "batch_size", "val_fraction", "split_seed")


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A checkpoint that was read: its content, its path, and the run folder or the file's own; and its model."""

    content: dict[str, Any]
    path: Path
    folder: Path
    device: torch.device

    @property
    def config(self) -> dict[str, Any]:
        """The config of model, data and seed."""
        return self.content["config"]

    @cached_property
    def inference(self) -> InferenceModel:
        """What samples and encodes of the model, in evaluation mode. Needs no Lightning."""
        return load_inference_model(self.content, self.device)

    @cached_property
    def model(self) -> "GenerativeModel":
        """The whole model, in evaluation mode."""
        return load_model(self.content, self.device)

    def data(self, given: dict[str, Any] | None = None, reference: Literal["train", "val"] = "train") -> Any:
        """Return the ImageDataModule of the run, or that of the options given instead, at the image size of the model.

        A root alone means a folder or archive of images, decoded as the run's own if that was trained on one. Of other
        data than the run's own, reference=train is all of it.
        """
        from src.data.datamodule import ImageDataModule

        own, given = self.config["data"], {key: value for key, value in (given or {}).items() if value is not None}
        whole = {"val_fraction": 0.0} if reference == "train" else {}
        if not given:
            config = own | local_data_options(own, run_dir_of(self.path))
        elif "_target_" in given:
            config = given | whole | {"image_size": own["image_size"]}
        elif has_option(own, "root", required=True):
            config = own | {"limit_images": None} | whole | given
        else:
            shared = {key: own[key] for key in SHARED_DATA_OPTIONS if key in own}
            config = {"_target_": "src.data.datamodule.FolderDataModule"} | shared | whole | given
        return build(config, "data", ImageDataModule)


def load_run(path: str | Path, device: str = "auto") -> LoadedRun:
    """Open a checkpoint, the best one of a run folder, or an exported folder; its model will be on the device.

    device=auto: CUDA where there is one, else MPS, else the CPU. Raises UserError where there is no such device, or no
    file that can be used.
    """
    chosen = choose_device(device)
    checkpoint = resolve_checkpoint(path)
    folder = run_dir_of(checkpoint.resolve()) or checkpoint.resolve().parent
    return LoadedRun(read_checkpoint(checkpoint), checkpoint, folder, chosen)


def choose_device(device: str) -> torch.device:
    """Return the device of a name, or the best one for auto. Raises UserError where there is no such device."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [name for name in there if there[name]]
    if device not in ("auto", *found):
        raise UserError(f"device={device}: there is none here; give {' or '.join(found)}")
    return torch.device(found[0] if device == "auto" else device)
