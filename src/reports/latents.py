"""Files that show a latent space: interpolations, still and moving, a map of codes, traversals."""

from pathlib import Path

import torch
from torch import Tensor

from src.core.image_files import animation_bytes, save_grid, save_placed, tile
from src.evaluation.latent_space import Directions, around, closed, decode, linear, snap, spherical
from src.models.base import GenerativeModel


class LatentImages:
    """Writes to a folder what a model decodes; `written` says in words what each file shows.

    steps: images in a row; frames: images of an animation from one stop to the next; animation: webp, gif or apng.
    """

    def __init__(self, model: GenerativeModel, folder: Path, steps: int, frames: int, animation: str) -> None:
        self.model, self.folder = model, folder
        self.steps, self.frames, self.animation = steps, frames, animation
        self.written: dict[str, str] = {}

    def interpolations(self, name: str, what: str, codes: Tensor, centre: Tensor, images: Tensor | None = None) -> None:
        """Rows from each code of the first half of (2 x rows, D) to one of the second; spherical about `centre`.

        images: those with these codes, uint8 (2 x rows, 3, S, S), to stand at both ends of their row.
        """
        starts, ends = codes.chunk(2)
        on_a_sphere = around(centre, spherical)
        for kind, path in (("linear", linear), ("spherical", on_a_sphere)):
            file = f"{name}_{kind}.png"
            rows = decode(self.model, path(starts, ends, self.steps))
            if images is not None:
                first, last = images.chunk(2)
                rows = torch.cat([first[:, None], rows, last[:, None]], dim=1)
            save_grid(rows.flatten(0, 1), self.folder / file, columns=rows.shape[1])
            self.written[file] = f"{kind} interpolations between {what}, one a row"
        stops = closed_tours(codes)
        file = f"{name}.{self.animation}"
        frames = [
            tile(decode(self.model, codes), columns=min(len(codes), 6))
            for codes in closed(stops, on_a_sphere, self.frames)
        ]
        (self.folder / file).write_bytes(animation_bytes(frames, f".{self.animation}"))
        self.written[file] = f"spherical interpolations through {len(stops)} {what} and back to the first"

    def map(self, points: Tensor, images: Tensor, cells: int, method: str) -> None:
        """Images (N, 3, S, S) at their points (N, 2), without overlap: at most one in each cell of a grid."""
        places = snap(points, cells)
        save_placed({place: images[index] for place, index in places.items()}, self.folder / "map.png")
        self.written["map.png"] = f"{len(places)} of {len(images)} real images where their codes lie, by {method}"

    def traversals(self, directions: Directions, code: Tensor) -> None:
        """A row for each direction."""
        images = decode(self.model, directions.traverse(code, self.steps))
        save_grid(images.flatten(0, 1), self.folder / "traversals.png", columns=self.steps)
        self.written["traversals.png"] = f"{directions.meaning}, the first on top: -3 to 3 standard deviations"


def closed_tours(codes: Tensor, most_stops: int = 4) -> Tensor:
    """(N, D) -> (stops, tours, D): as many stops as asked if there are enough codes for a tour of each."""
    stops = min(most_stops, len(codes))
    return codes[: len(codes) // stops * stops].unflatten(0, (stops, -1))
