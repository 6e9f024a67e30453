"""Public sets of cat images, downloaded once and compared with the published digest of their contents."""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

import torch

from src.core.download import download
from src.core.errors import UserError
from src.core.files import user_cache_dir
from src.data.archives import UnusableSource
from src.data.dataset import ImageDataset
from src.data.folder import Folder

logger = logging.getLogger(__name__)

PUBLISHED_SIZE = 64  # pixels, of the cat faces
CAT_DATASET_COMMIT = "c463f7f29d538bf46e5972f040ba16ddddfba533"


class PublicSet(Folder):
    """Images inside an archive that is kept in `folder` (None: the user's cache), downloaded from url if absent.

    digest: the SHA-256 of what `sha256sum *` prints in the folder `subfolder` of the archive. Loading raises UserError
    without network, for other contents, and for images that can't be read.
    """

    name: str
    licence: str
    url: str
    file_name: str
    subfolder: str
    digest: str

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__(Path(folder or user_cache_dir()) / self.file_name, self.subfolder)
        self.description = f"{self.name} of {self.root if self.root.exists() else self.url} ({self.licence})"

    def load(self, image_size: int, cache_dir: str | Path | None = None) -> ImageDataset:
        was_there = self.root.exists()
        if not was_there:
            logger.info("%s: %s", self.name, self.licence)
        download(self.url, self.root, self.name)
        try:
            images = super().load(image_size, cache_dir)
            digests = sorted(zip(images.names, map(bytes, images.columns["sha256"].numpy()), strict=True))
            found = lines_digest(f"{sha256.hex()}  {name}" for name, sha256 in digests)
        except UnusableSource as error:
            found = f"no digest, as {error}"
        if found != self.digest:
            if not was_there:
                self.root.unlink(missing_ok=True)
            again = f"run again without {self.root}" if was_there else "run again"
            raise UserError(
                f"{self.name} from {self.url} is not the published set: expected {self.digest}, found {found}; "
                f"{again} to download it again, give your own images with data=folder "
                "data.root=... or use data=drawn_cats"
            )
        return images


class CatFaces(PublicSet):
    """29,843 crops of 64x64 with many duplicates (AnnikaV9/cat-dataset), about 280 MB.

    clean keeps 9,251 of them: the smoothest of every group of two or more near-duplicates. A crop that is there only
    once is mostly a bad one or a whole cat. They are selected among the images as published, at any image_size.
    """

    name = "cat faces 64x64"
    licence = "licence mixed or unclear: collected from older public sets"  # the repository says MIT
    url = f"https://codeload.github.com/AnnikaV9/cat-dataset/tar.gz/{CAT_DATASET_COMMIT}"
    file_name = f"cat-dataset-{CAT_DATASET_COMMIT}.tar.gz"
    subfolder = "cats"
    digest = "cc0bcca5aa27709282ff58b26b0d3379c751349590d738e44f49f991810e79df"
    clean_digest = "e529fb7c83df2425a5956fac19edf414f93e9267c4a749c5fbd83ca039f7ea7c"

    def __init__(self, folder: str | Path | None = None, clean: bool = True) -> None:
        super().__init__(folder)
        self.clean = clean

    def load(self, image_size: int, cache_dir: str | Path | None = None) -> ImageDataset:
        images = super().load(image_size, cache_dir)
        if not self.clean:
            return images
        published = images if image_size == PUBLISHED_SIZE else super().load(PUBLISHED_SIZE, cache_dir)
        in_company = torch.bincount(published.groups)[published.groups] > 1
        clean = published.select(published.columns["smoothest"].bool() & in_company).names
        if lines_digest(clean) != self.clean_digest:
            logger.warning("the clean list of %d names is not the published one", len(clean))
        names = set(clean)
        return images.select([position for position, name in enumerate(images.names) if name in names])


class AFHQCat(PublicSet):
    """5,153 whole heads of 512x512: the training cats of AFHQ v1 (clovaai/stargan-v2)."""

    name = "AFHQ cats"
    licence = "CC BY-NC 4.0: non-commercial, with attribution to Choi et al. (2020)"
    url = "https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1"
    file_name = "afhq.zip"
    subfolder = "train/cat"
    digest = "23108cf71dd780036ce544033b4f177864aead8243e3dc0cac055ce86f36ebf4"


def lines_digest(lines: Iterable[str]) -> str:
    """Return the SHA-256 (hexadecimal) of a text file of these lines."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")).hexdigest()
