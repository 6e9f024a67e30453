"""Image files that show a latent space: interpolations, still and moving, a map of latents, traversals."""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from src.core.files import write_atomic
from src.core.films import Scale, film_bytes
from src.core.images import save_grid, save_placed, tile
from src.data.dataset import ImageDataset
from src.evaluation.latent_space import (
    closed_path,
    decode,
    encode,
    linear,
    most_active,
    project,
    snap_to_grid,
    spherical,
    steepest_directions,
)
from src.models.inference import InferenceModel

GAN_LATENTS = 16  # over which a decoder's Jacobian is averaged
MAX_STOPS = 4  # of an animation


@dataclass
class LatentImages:
    """Writes what a model decodes to a folder; the fields are the options of conf/latents.yaml.

    written: what each file shows, in words.
    """

    model: InferenceModel
    folder: Path
    num_images: int
    num_directions: int
    paths: int
    steps: int
    map: Literal["pca", "tsne"]
    map_cells: int
    animation: str
    scale: Scale | None
    frames: int
    seed: int
    written: dict[str, str] = field(default_factory=dict)

    def write(self, dataset: ImageDataset | None, checkpoint: str) -> None:
        """Write all files, and latents.json, which lists them.

        dataset: num_images of these are encoded; None where there are none, or for a model that has no encoder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(self.seed)
        noise = self.model.sample_prior(2 * self.paths, generator)
        self.interpolations("samples", "samples", noise, torch.zeros(self.model.latent_dim))
        latents, start = self.model.sample_prior(GAN_LATENTS, generator), noise[0]
        if dataset is not None and self.model.encoder is not None:
            images = dataset[torch.randperm(len(dataset), generator=generator)[: self.num_images]]
            latents = encode(self.model, images)
            # With fewer images than ends of paths some are taken again.
            ends = torch.arange(2 * self.paths) % len(latents)
            start = latents[0]
            self.interpolations("images", "real images", latents[ends], latents.mean(dim=0), images[ends])
            # At most one image in each cell of a grid, so that none covers another.
            places = snap_to_grid(project(latents, self.map), self.map_cells)
            save_placed({place: images[index] for place, index in places.items()}, self.folder / "map.png")
            self.written["map.png"] = f"{len(places)} of {len(images)} real images at their latents, by {self.map}"
        of_images = dataset is not None and self.model.encoder is not None and len(latents) > 1
        find = most_active if of_images else steepest_directions
        directions = find(self.model, latents, self.num_directions)
        text = f"{directions.meaning}, the first on top: -3 to 3 standard deviations"
        self.save_rows("traversals.png", text, decode(self.model, directions.traverse(start, self.steps)))
        report = {
            "files": self.written,
            "directions": {"sorted_by": directions.meaning, "activity": directions.activity.tolist()},
            "num_latents": len(latents),
            "seed": self.seed,
            "checkpoint": checkpoint,
            "images_seen": self.model.images_seen,
        }
        write_atomic(self.folder / "latents.json", json.dumps(report, indent=2) + "\n")
        for name, text in self.written.items():
            print(f"{self.folder / name}: {text}")

    def interpolations(
        self, name: str, kind: str, latents: Tensor, center: Tensor, images: Tensor | None = None
    ) -> None:
        """Write rows from each latent of the first half of (2 x rows, D) to one of the second half, and an animation.

        center: of the spherical paths. images: those of the latents, uint8 (2 x rows, 3, S, S), for both ends of a row.
        """
        starts, ends = latents.chunk(2)
        on_a_sphere = partial(spherical, center=center)
        for path_name, path in (("linear", linear), ("spherical", on_a_sphere)):
            rows = decode(self.model, path(starts, ends, self.steps))
            if images is not None:
                first, last = images[:, None].chunk(2)
                rows = torch.cat([first, rows, last], dim=1)
            text = f"{path_name} interpolations between {kind}, one a row"
            self.save_rows(f"{name}_{path_name}.png", text, rows)
        # As many tours of MAX_STOPS latents as there are: (stops, tours, D).
        count = min(MAX_STOPS, len(latents))
        stops = latents[: len(latents) // count * count].unflatten(0, (count, -1))
        tours = closed_path(stops, on_a_sphere, self.frames)
        frames = [tile(decode(self.model, frame), columns=6) for frame in tours]
        file = f"{name}.{self.animation}"
        write_atomic(self.folder / file, film_bytes(frames, self.animation, self.scale))
        self.written[file] = f"spherical interpolations through {count} {kind} and back to the first"

    def save_rows(self, file: str, text: str, rows: Tensor) -> None:
        """Write a grid of uint8 (rows, columns, 3, S, S)."""
        save_grid(rows.flatten(0, 1), self.folder / file, columns=rows.shape[1])
        self.written[file] = text
