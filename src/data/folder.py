"""Where images come from: a folder or archive, or drawn by a program. Public sets are in public.py."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from src.core.errors import UserError
from src.data.archives import ImageFile, digests, image_files, natural, num_images, state
from src.data.cache.builder import OnError, open_cache
from src.data.cache.spec import Made, Work
from src.data.dataset import ImageDataset
from src.data.decoding import Crop, Decoding, TooSmall, Upscale
from src.data.drawn_cats import factors, painter, shapes
from src.data.drawn_cats.factors import draw_cats, draw_factors
from src.data.duplicates import mean_absolute_laplacian, near_duplicate_groups, smoothest_of_each

CHUNK = 16  # images that a thread makes at a time
T = TypeVar("T")


class Source(Protocol):
    """Where images come from."""

    @property
    def description(self) -> str:
        """What is read and from where: one line for the screen. Decodes nothing."""

    def load(self, image_size: int, cache_dir: str | Path | None = None) -> ImageDataset:
        """All images, image_size pixels square, from their store (None: in the user's cache)."""


class Folder(Source):
    """The images of a folder, however deep, .zip, .tar, .tar.gz or .tgz, in natural order.

    With a subfolder ("cats", "train/cat"), only those below it, wherever it lies, named relative to it. Nothing is
    unpacked. What gives no image is left out and listed, or with on_error=stop stops. UserError: nothing there, an
    archive that can't be read, or more than 5% that can't.
    """

    def __init__(
        self,
        root: str | Path,
        subfolder: str = "",
        crop: Crop = "center",
        background: str = "white",
        upscale: Upscale = "allow",
        on_error: OnError = "skip",
    ) -> None:
        self.root = Path(root).expanduser()
        self.subfolder = subfolder
        self.crop, self.background, self.upscale = crop, background, upscale
        self.on_error = on_error

    @property
    def description(self) -> str:
        return f"images of {self.root.absolute().name}"

    def load(self, image_size: int, cache_dir: str | Path | None = None) -> ImageDataset:
        decoding = Decoding(image_size, self.crop, self.background, self.upscale)
        return open_cache(FilesRecipe(self.root, self.subfolder, decoding), cache_dir, self.on_error)


class FilesRecipe:
    """A store's images are decoded from files."""

    sorted_by = staticmethod(natural)

    def __init__(self, root: Path, subfolder: str, decoding: Decoding) -> None:
        self.root, self.subfolder, self.decoding = root, subfolder, decoding
        self.title = root.absolute().name
        self.identity = f"{root.absolute()} {subfolder}"
        self.image_size = decoding.image_size
        self.options = asdict(decoding)

    def state(self) -> str:
        return state(self.root, self.subfolder)

    def digests(self) -> Iterator[tuple[str, str]]:
        return digests(self.root, self.subfolder)

    def work(self) -> Work:
        def make(files: list[ImageFile]) -> list[Made]:
            return [self._made(file) for file in files]

        return make, _chunks(image_files(self.root, self.subfolder)), num_images(self.root, self.subfolder)

    def _made(self, file: ImageFile) -> Made:
        digest = ""
        try:
            content = file.read()
            digest = hashlib.sha256(content).hexdigest()
            pixels, size = self.decoding(content)
        except Exception as error:  # a broken archive member raises nearly anything
            unreadable = not isinstance(error, TooSmall)
            return Made(file.name, digest, reason=str(error) or type(error).__name__, unreadable=unreadable)
        return Made(file.name, digest, np.ascontiguousarray(pixels), size)

    def columns(self, images: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """group; and smoothest: 1 for the one of each group that data.deduplicate keeps."""
        groups = near_duplicate_groups(images)
        # Who is alone in its group is its smoothest.
        in_company = np.flatnonzero(np.bincount(groups)[groups] > 1)
        roughness = np.zeros(len(groups))
        for start in range(0, len(in_company), 256):
            some = in_company[start : start + 256]
            roughness[some] = mean_absolute_laplacian(images[some])
        smoothest = np.zeros(len(groups), np.int64)
        smoothest[smoothest_of_each(groups, roughness, at_least=1)] = 1
        return {"group": groups, "smoothest": smoothest}

    def factors(self) -> None:
        return None


class DrawnCats(Source):
    """Cats drawn by src.data.drawn_cats.factors: no download, and every factor of variation known."""

    def __init__(self, num_images: int, seed: int) -> None:
        if num_images < 1:
            raise UserError(f"num_images={num_images} drawn cats are none; give num_images=1 or more")
        self.num_images = num_images
        self.seed = seed

    @property
    def description(self) -> str:
        return f"{self.num_images:,} drawn cats (embedded; data=cat_faces has real ones)"

    def load(self, image_size: int, cache_dir: str | Path | None = None) -> ImageDataset:
        return open_cache(DrawnRecipe(self.num_images, self.seed, image_size), cache_dir)


class DrawnRecipe:
    """A store's images are drawn."""

    title = "drawn-cats"
    sorted_by = staticmethod(natural)

    def __init__(self, num_images: int, seed: int, image_size: int) -> None:
        self.num_images, self.seed, self.image_size = num_images, seed, image_size
        self.identity = f"{num_images} drawn cats of seed {seed}"
        self.options = {"image_size": image_size, "drawer": drawer_digest()}

    def state(self) -> str:
        return self.identity

    @cached_property
    def drawn(self) -> np.ndarray:
        return draw_factors(np.arange(self.num_images), self.seed)

    def _named(self, index: int) -> tuple[str, str]:
        return f"drawn_{index:05d}", hashlib.sha256(self.drawn[index].tobytes()).hexdigest()

    def digests(self) -> Iterator[tuple[str, str]]:
        yield from map(self._named, range(self.num_images))

    def work(self) -> Work:
        def draw(indices: list[int]) -> list[Made]:
            cats = draw_cats(self.drawn[indices], self.image_size)
            size = (self.image_size, self.image_size)
            return [Made(*self._named(index), cat, size) for index, cat in zip(indices, cats, strict=True)]

        return draw, _chunks(range(self.num_images), 64), self.num_images

    def columns(self, images: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        return {"group": np.arange(len(names))}  # no image is a copy of another

    def factors(self) -> np.ndarray:
        return self.drawn


def drawer_digest() -> str:
    """Changes with the program that draws."""
    files = [Path(str(module.__file__)) for module in (factors, painter, shapes)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
