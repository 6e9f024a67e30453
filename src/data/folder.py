"""The images of a folder or an archive. Public sets are in public.py, drawn cats in drawn_cats/source.py."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from src.data.archives import ImageFile, count_images, files_state, image_digests, image_files
from src.data.cache.builder import CachedSource, DecodedImage, OnError
from src.data.dataset import ImageDataset
from src.data.decoding import Crop, Decoding, TooSmall, Upscale
from src.data.duplicates import mean_absolute_laplacian, near_duplicate_groups, smoothest_of_each

CHUNK = 16  # images that a thread decodes at a time


class Folder(CachedSource):
    """The images of a folder, however deep, .zip, .tar, .tar.gz or .tgz, in natural order; nothing is unpacked.

    With a subfolder ("cats", "train/cat"), only the images below it, wherever it is, named relative to it. What can't
    be used is left out and listed, or stops with on_error=stop. Loading raises UserError if there are no images, if the
    archive can't be read, or if more than 5% of the images can't.
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
        self.root, self.subfolder = Path(root).expanduser(), subfolder
        self.crop, self.background, self.upscale, self.on_error = crop, background, upscale, on_error
        self.title = self.root.absolute().name
        self.identity = f"{self.root.absolute()} {subfolder}"

    @property
    def description(self) -> str:
        return f"images of {self.title}"

    def options(self, image_size: int) -> dict[str, Any]:
        return {"crop": self.crop, "background": self.background, "upscale": self.upscale}

    def state(self) -> str:
        return files_state(self.root, self.subfolder)

    def digests(self) -> Iterator[tuple[str, str]]:
        return image_digests(self.root, self.subfolder)

    def chunks(self) -> tuple[Iterator[list[ImageFile]], int | None]:
        files = image_files(self.root, self.subfolder)
        return iter(lambda: list(islice(files, CHUNK)), []), count_images(self.root, self.subfolder)

    def decode(self, chunk: list[ImageFile], image_size: int) -> list[DecodedImage]:
        decoding = Decoding(image_size, self.crop, self.background, self.upscale)
        return [_decode(file, decoding) for file in chunk]

    def columns(self, images: ImageDataset) -> dict[str, np.ndarray]:
        """Return each image's group, and "smoothest": 1 for the image of each group that data.deduplicate keeps."""
        groups = near_duplicate_groups(images)
        # An image that is alone in its group is its smoothest.
        in_company = np.flatnonzero(np.bincount(groups)[groups] > 1)
        roughness = np.zeros(len(groups))
        roughness[in_company] = mean_absolute_laplacian(images.select(in_company))
        smoothest = np.zeros(len(groups), np.int64)
        smoothest[smoothest_of_each(groups, roughness)] = 1
        return {"group": groups, "smoothest": smoothest}


def _decode(file: ImageFile, decoding: Decoding) -> DecodedImage:
    sha256 = ""
    try:
        content = file.read()
        sha256 = hashlib.sha256(content).hexdigest()
        pixels, size = decoding(content)
        return DecodedImage(file.name, sha256, np.ascontiguousarray(pixels), size)
    except Exception as error:  # a broken archive member raises nearly anything
        reason = str(error) or type(error).__name__
        return DecodedImage(file.name, sha256, reason=reason, unreadable=not isinstance(error, TooSmall))
