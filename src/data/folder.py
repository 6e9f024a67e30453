"""The images of a folder or an archive. Public sets are in public.py, drawn cats in drawn_cats/source.py."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from src.core.errors import printable
from src.core.files import file_sha256
from src.data.archives import LARGEST_FILE, ImageFile, Unusable, files_state, image_files
from src.data.cache.builder import CachedSource, OnError
from src.data.cache.manifest import DecodedImage
from src.data.dataset import ImageDataset
from src.data.decoding import HEAD_WEIGHTS, Decoding, TooSmall
from src.data.duplicates import joined, mean_absolute_laplacian, near_duplicate_groups, smoothest_of_each
from src.data.head_crops import head_crops


class Folder(CachedSource):
    """The images of a folder, however deep, .zip, .tar, .tar.gz or .tgz, in natural order; nothing is unpacked.

    With a subfolder ("cats", "train/cat"), only the images below it, wherever it is, named relative to it. What can't
    be used is left out and listed, or stops with on_error=stop. Loading raises UserError if there are no images, if the
    archive can't be read, or if more than 5% of the images can't. decoding: options of Decoding.
    """

    def __init__(self, root: str | Path, subfolder: str = "", on_error: OnError = "skip", **decoding: Any) -> None:
        self.root, self.subfolder, self.on_error = Path(root).expanduser(), subfolder, on_error
        self.decoding = decoding
        self.title = printable(self.root.absolute().name)
        self.identity = f"{self.root.absolute()} {subfolder}"
        self.description = f"images of {self.title}"

    def options(self, image_size: int) -> dict[str, Any]:
        options = asdict(Decoding(image_size, **self.decoding))
        if options["crop"] == "cat":
            return options | {"weights": file_sha256(HEAD_WEIGHTS)[:16]}
        return {name: value for name, value in options.items() if name not in ("cats", "without_cat")}

    def state(self) -> str:
        return files_state(self.root, self.subfolder)

    def files(self) -> Iterable[ImageFile]:
        self.unread = Counter[str]()
        files = image_files(self.root, self.subfolder, self.unread)
        return list(files) if self.root.is_dir() or self.root.name.lower().endswith(".zip") else files

    def decode(self, files: list[ImageFile], image_size: int) -> list[DecodedImage]:
        decoding = Decoding(image_size, **self.decoding)
        return [image for file in files for image in _decode(file, decoding)]

    def columns(self, images: ImageDataset) -> dict[str, np.ndarray]:
        """Return each image's group, and "smoothest": 1 for the image of each group that data.deduplicate keeps."""
        groups = near_duplicate_groups(images)
        in_company = np.flatnonzero(np.bincount(groups)[groups] > 1)  # one that is alone is its group's smoothest
        roughness = np.zeros(len(groups))
        roughness[in_company] = mean_absolute_laplacian(images.select(in_company))
        smoothest = np.isin(np.arange(len(groups)), smoothest_of_each(groups, roughness))
        if self.decoding.get("cats") == "all":  # heads of one photo are one group too
            groups = joined(groups, [re.sub(r"#\d+$", "", name) for name in images.names])
        return {"group": groups, "smoothest": smoothest.astype(np.int64)}


def _decode(file: ImageFile, decoding: Decoding) -> list[DecodedImage]:
    sha256 = ""
    try:
        if file.size > LARGEST_FILE:
            raise Unusable(f"a file of more than {LARGEST_FILE >> 20} MiB is no image")
        content = file.read()
        sha256 = hashlib.sha256(content).hexdigest()
        if decoding.crop == "cat":
            return head_crops(file.name, sha256, content, decoding)
        return [DecodedImage(file.name, sha256, *decoding(content))]
    except Exception as error:  # a broken archive member raises nearly anything
        reason = str(error) or type(error).__name__
        return [DecodedImage(file.name, sha256, reason=reason, unreadable=not isinstance(error, TooSmall))]
