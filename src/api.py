"""The front for Python and notebooks, in a checkout of this project; README.md has an example.

Errors are UserError, with the sentences of the command line.
"""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from src.config.cli import as_text, composed
from src.core.errors import RunFailed, RunStopped, UserError
from src.core.films import enlarged
from src.core.images import save_grid, tile, to_pillow
from src.core.run_folder import METRICS, read_rows
from src.data.archives import Unusable
from src.data.decoding import Decoding, opened
from src.data.head_crops import cat_square
from src.evaluation.from_checkpoint import LoadedRun, load_run
from src.evaluation.latent_space import decode, encode, linear, spherical
from src.models.priors import Prior
from src.training.launcher import start

ImageLike = str | Path | Image.Image | np.ndarray | Tensor


class Images:
    """Images, uint8 (N, 3, H, W) in `pixels`; a notebook shows them as a grid, enlarged if it is small."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels.cpu()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, positions: int | slice | Sequence[int]) -> "Images":
        """Return some of the images."""
        return Images(self.pixels[[positions] if isinstance(positions, int) else positions])

    def numpy(self) -> np.ndarray:
        """Return the images as uint8 (N, H, W, 3)."""
        return self.pixels.permute(0, 2, 3, 1).numpy()

    def pil(self) -> list[Image.Image]:
        """Return the images as Pillow's."""
        return [to_pillow(image) for image in self.pixels]

    def save(self, path: str | Path, columns: int | None = None) -> Path:
        """Write one PNG: the image, or a grid of all of them; return its path."""
        save_grid(self.pixels, Path(path), columns or self._columns)
        return Path(path)

    @property
    def _columns(self) -> int:
        return min(8, math.ceil(math.sqrt(len(self))))

    def _repr_png_(self) -> bytes:
        with io.BytesIO() as file:
            enlarged(to_pillow(tile(self.pixels, self._columns)), "nearest").save(file, "PNG")
            return file.getvalue()


class Run:
    """A trained model, opened by open_run or train.

    model: what samples and encodes of it. config: its model, data and seed. folder: the run folder or exported one.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        self.loaded = loaded
        self.model, self.config, self.folder = loaded.inference, loaded.config, loaded.folder
        self.image_size: int = loaded.config["data"]["image_size"]

    def sample(self, num_images: int, seed: int = 0, prior: Prior | None = None, temperature: float = 1.0) -> Images:
        """Return the images that src.sample draws.

        prior: normal or mixture; None: the mixture where one was fitted. Raises UserError if the model lacks it.
        """
        prior = prior or self.model.default_prior
        return Images(torch.cat(list(self.model.sample_uint8(num_images, seed, prior, temperature))))

    def encode(self, images: ImageLike | Sequence[ImageLike]) -> Tensor:
        """Return the latents of images, (N, latent_dim). Raises UserError if the model has no encoder.

        Images are files, Pillow's, arrays (H, W, 3) or tensors (3, H, W) of uint8. One of the model's size is taken as
        it is; a photo is cropped to its surest cat's head as data.crop=cat does, or to its center if there is none.
        """
        is_one = isinstance(images, str | Path | Image.Image) or getattr(images, "ndim", 0) == 3
        several: list[Any] = [images] if is_one else [*images]  # type: ignore[misc]
        return encode(self.model, torch.stack([as_pixels(image, self.image_size) for image in several]))

    def decode(self, latents: Tensor) -> Images:
        """Return the images of latents, (latent_dim,) or (N, latent_dim)."""
        return Images(decode(self.model, torch.atleast_2d(latents)))

    def reconstruct(self, images: ImageLike | Sequence[ImageLike]) -> Images:
        """Return decode(encode(images))."""
        return self.decode(self.encode(images))

    def interpolate(self, start: Tensor, end: Tensor, steps: int = 8, path: str = "spherical") -> Images:
        """Return images on the way from one latent, (latent_dim,) or (1, latent_dim), to another, both among them.

        path: spherical, about the origin, where most of N(0, I) has the same distance from it; or linear.
        """
        paths = {"linear": linear, "spherical": spherical}
        if path not in paths:
            raise UserError(f"path={path}: give linear or spherical")
        return self.decode(paths[path](start.flatten(), end.flatten(), steps))

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """The curves of metrics.csv by name: float64 (K, 2), the images seen and the value."""
        columns, rows = read_rows(self.folder / METRICS)
        points = {name: [(row["images_seen"], row[name]) for row in rows if row.get(name)] for name in columns}
        return {name: np.array(values, np.float64) for name, values in points.items() if name != "images_seen"}

    def evaluate(self, *overrides: str) -> dict[str, Any]:
        """Evaluate as `python -m src.evaluate checkpoint=... OVERRIDES` does; return the content of metrics.json."""
        from src.evaluate import evaluate

        config = composed("evaluate", [f"checkpoint={as_text(str(self.loaded.path.absolute()))}", *overrides])
        evaluate(**config)
        return json.loads(Path(config["output"] or self.folder, "metrics.json").read_text())


def as_pixels(image: Any, image_size: int) -> Tensor:
    """Return an image as uint8 (3, image_size, image_size). Raises UserError if it is none."""
    if isinstance(image, Tensor):
        image = image.permute(1, 2, 0).cpu().numpy()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"an array of {image.dtype}, shape {image.shape}, is no image; give uint8 (H, W, 3)")
        image = Image.fromarray(image)
    decoding = Decoding(image_size)
    try:
        if isinstance(image, Image.Image):
            photo = decoding.rgb(ImageOps.exif_transpose(image))
        else:
            with opened(Path(image).expanduser().read_bytes()) as file:
                photo = decoding.rgb(file)
        if photo.size != (image_size, image_size):
            photo = photo.crop(cat_square(photo))  # None: the whole
        return torch.from_numpy(decoding.square(photo).copy())
    except (OSError, ValueError, Unusable) as error:
        raise UserError(f"can't read the image {image}: {error}") from error


def open_run(path: str | Path, device: str = "auto") -> Run:
    """Open a run folder (its best checkpoint), a checkpoint or an exported folder.

    Raises UserError where there is none that can be used.
    """
    return Run(load_run(path, device))


def train(*overrides: str) -> Run:
    """Train as `python -m src.train OVERRIDES` does, and open the run.

    A run that is interrupted (Ctrl-C) is opened too, at its last checkpoint. Raises UserError for a mistake in the
    overrides, RuntimeError where a run of several ranks fails.
    """
    config = composed("train", [*overrides])
    try:
        start(config, [*overrides])
    except RunFailed as failure:
        if not failure.requested:
            raise RuntimeError(f"the run failed: {failure.reason}") from failure
    except RunStopped:
        pass
    return open_run(config["run_dir"])
