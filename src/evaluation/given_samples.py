"""Images of a folder or archive, made by whatever program, in place of a model's samples."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from src.core.errors import UserError
from src.data.datamodule import FolderDataModule
from src.evaluation.evaluator import BATCH_SIZE
from src.evaluation.from_checkpoint import choose_device
from src.models.inference import LatentModel
from src.models.priors import Prior


class GivenSamples(LatentModel):
    """At most num_images images at a path, evenly spaced, which are evaluated as if a model had sampled them.

    They are scaled to the size of the data that they are compared with. options: of that data, a config with its class.
    """

    def __init__(self, path: str, num_images: int, options: dict[str, Any], device: str) -> None:
        super().__init__()
        if "_target_" not in options:
            raise UserError(
                f"samples={path}: give the images to compare them with: data=folder data.root=PATH, or data=cat_faces, "
                "data=afhq_cat, data=drawn_cats"
            )
        size = options["image_size"]
        given = FolderDataModule(path, image_size=size, val_fraction=0.0, cache_dir=options["cache_dir"])
        self.images = given.images("train", num_images)
        self.device, self.dtype, self.encoder, self.mixture = choose_device(device), torch.float32, None, None
        scaled = int((self.images.columns["size"] != size).any(dim=1).sum())
        note = f", of which {scaled:,} were scaled to {size}x{size}" if scaled else ""
        print(f"samples: {len(self.images):,} {given.source.description}{note}", flush=True)

    def sample_uint8(
        self, num_images: int, seed: int, prior: Prior = "normal", temperature: float = 1.0
    ) -> Iterator[Tensor]:
        yield from self.images.select(slice(num_images)).batches(BATCH_SIZE)

    def decode(self, latents: Tensor) -> Tensor:
        raise UserError("samples=: these images have no latents to decode")
