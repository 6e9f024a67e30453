"""Images of a folder or archive, made by whatever program, in place of a model's samples."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from src.core.errors import UserError
from src.data.datamodule import FolderDataModule, ImageDataModule
from src.data.dataset import ImageDataset
from src.evaluation.evaluator import BATCH_SIZE
from src.evaluation.from_checkpoint import choose_device
from src.models.checkpoint.loading import build
from src.models.inference import LatentModel
from src.models.priors import Prior


class GivenSamples(LatentModel):
    """Images that are evaluated as if a model had sampled them; it has no latents."""

    def __init__(self, images: ImageDataset, device: torch.device) -> None:
        super().__init__()
        self.images, self.num_images = images, len(images)
        self.device, self.dtype, self.encoder, self.mixture = device, torch.float32, None, None

    def sample_uint8(
        self, num_images: int, seed: int, prior: Prior = "normal", temperature: float = 1.0
    ) -> Iterator[Tensor]:
        yield from self.images.select(slice(num_images)).batches(BATCH_SIZE)

    def decode(self, latents: Tensor) -> Tensor:
        raise UserError("samples=: these images have no latents to decode")


class LoadedSamples:
    """At most num_images images at a path, evenly spaced, scaled to the size of the data they are compared with.

    model, folder and data() are what a LoadedRun offers. options: of the data, a config with its class.
    """

    def __init__(self, path: str, num_images: int, options: dict[str, Any], device: str) -> None:
        if "_target_" not in options:
            raise UserError(
                f"samples={path}: give the images to compare them with: data=folder data.root=PATH, or data=cat_faces, "
                "data=afhq_cat, data=drawn_cats"
            )
        size = options["image_size"]
        given = FolderDataModule(path, image_size=size, val_fraction=0.0, cache_dir=options["cache_dir"])
        images = given.images("train", num_images)
        scaled = int((images.columns["size"] != size).any(dim=1).sum())
        note = f", of which {scaled:,} were scaled to {size}x{size}" if scaled else ""
        print(f"samples: {len(images):,} {given.source.description}{note}", flush=True)
        self.model, self.folder = GivenSamples(images, choose_device(device)), Path(f"{Path(path)}-metrics")

    def data(self, given: dict[str, Any], reference: Literal["train", "val"]) -> ImageDataModule:
        """Return the data of a config; reference=train is all of it."""
        whole = {"val_fraction": 0.0} if reference == "train" else {}
        return build(given | whole, "data", ImageDataModule)
