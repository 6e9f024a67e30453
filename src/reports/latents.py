"""Image files that show a latent space: interpolations, still and moving, a map of latents, traversals."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from src.core.files import write_atomic
from src.core.images import animation_bytes, save_grid, save_placed, tile
from src.data.dataset import ImageDataset
from src.evaluation import latent_space
from src.evaluation.latent_space import decode
from src.models.autoencoder import EncodingModel
from src.models.base import GenerativeModel

GAN_LATENTS = 16  # over which a decoder's Jacobian is averaged


@dataclass
class LatentImages:
    """Writes what a model decodes to a folder.

    steps: images in a row. frames: images of an animation from one stop to the next. animation: webp, gif or apng.
    written: what each file shows, in words.
    """

    model: GenerativeModel
    folder: Path
    steps: int
    frames: int
    animation: str
    written: dict[str, str] = field(default_factory=dict)

    def write(
        self,
        dataset: ImageDataset | None,
        num_images: int,
        num_directions: int,
        paths: int,
        projection: Literal["pca", "tsne"],
        map_cells: int,
        seed: int,
        checkpoint: str,
    ) -> None:
        """Write all files, and latents.json, which lists them.

        dataset: num_images of these are encoded; None for a model that has no encoder. paths: rows of an
        interpolation. map_cells: the most images in a row of the map.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(seed)
        noise = self.model.sample_prior(2 * paths, generator)
        self.interpolations("samples", "samples", noise, torch.zeros(self.model.latent_dim))
        latents, start = self.model.sample_prior(GAN_LATENTS, generator), noise[0]
        if dataset is not None and isinstance(self.model, EncodingModel):
            images = dataset[torch.randperm(len(dataset), generator=generator)[:num_images]]
            latents = latent_space.encode(self.model, images)
            # With fewer images than ends of paths some are taken again.
            ends = torch.arange(2 * paths) % len(latents)
            start = latents[0]
            self.interpolations("images", "real images", latents[ends], latents.mean(dim=0), images[ends])
            self.map(latent_space.project(latents, projection), images, map_cells, projection)
        directions = latent_space.most_active(self.model, latents, num_directions)
        self.traversals(directions, start)
        report = {
            "files": self.written,
            "directions": {"sorted_by": directions.meaning, "activity": directions.activity.tolist()},
            "num_latents": len(latents),
            "seed": seed,
            "checkpoint": checkpoint,
            "images_seen": self.model.images_seen,
        }
        write_atomic(self.folder / "latents.json", json.dumps(report, indent=2) + "\n")
        for name, text in self.written.items():
            print(f"{self.folder / name}: {text}")

    def interpolations(
        self, name: str, kind: str, latents: Tensor, center: Tensor, images: Tensor | None = None
    ) -> None:
        """Write rows from each latent of the first half of (2 x rows, D) to one of the second half.

        center: of the spherical paths. images: those of the latents, uint8 (2 x rows, 3, S, S), for both ends of a row.
        """
        starts, ends = latents.chunk(2)
        spherical_path = latent_space.around(center, latent_space.spherical)
        for path_name, path in (("linear", latent_space.linear), ("spherical", spherical_path)):
            rows = decode(self.model, path(starts, ends, self.steps))
            if images is not None:
                first, last = images.chunk(2)
                rows = torch.cat([first[:, None], rows, last[:, None]], dim=1)
            text = f"{path_name} interpolations between {kind}, one a row"
            self.save_rows(f"{name}_{path_name}.png", text, rows)
        stops = closed_tours(latents)
        frames = [
            tile(decode(self.model, frame), columns=min(len(frame), 6))
            for frame in latent_space.closed_path(stops, spherical_path, self.frames)
        ]
        file = f"{name}.{self.animation}"
        (self.folder / file).write_bytes(animation_bytes(frames, f".{self.animation}"))
        self.written[file] = f"spherical interpolations through {len(stops)} {kind} and back to the first"

    def map(self, points: Tensor, images: Tensor, cells: int, method: str) -> None:
        """Write images (N, 3, S, S) at their points (N, 2), without overlap: at most one in each cell of a grid."""
        places = latent_space.snap_to_grid(points, cells)
        save_placed({place: images[index] for place, index in places.items()}, self.folder / "map.png")
        self.written["map.png"] = f"{len(places)} of {len(images)} real images at their latents, by {method}"

    def traversals(self, directions: latent_space.Directions, latent: Tensor) -> None:
        """Write a row for each direction, on which the latent moves."""
        text = f"{directions.meaning}, the first on top: -3 to 3 standard deviations"
        self.save_rows("traversals.png", text, decode(self.model, directions.traverse(latent, self.steps)))

    def save_rows(self, file: str, text: str, rows: Tensor) -> None:
        """Write a grid of uint8 (rows, columns, 3, S, S)."""
        save_grid(rows.flatten(0, 1), self.folder / file, columns=rows.shape[1])
        self.written[file] = text


def closed_tours(latents: Tensor, max_stops: int = 4) -> Tensor:
    """Arrange latents as tours, with max_stops if there are enough for a tour of each: (N, D) -> (stops, tours, D)."""
    stops = min(max_stops, len(latents))
    return latents[: len(latents) // stops * stops].unflatten(0, (stops, -1))
