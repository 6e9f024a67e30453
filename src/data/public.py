"""Public sets of cat images, fetched once and checked against their published contents."""

import hashlib
import logging
from contextlib import suppress
from pathlib import Path

import numpy as np

from src.core.download import download
from src.core.errors import UserError
from src.core.files import user_cache_dir
from src.data.archives import digests
from src.data.cache.builder import open_cache
from src.data.dataset import ImageDataset
from src.data.decoding import Decoding
from src.data.duplicates import clean_as_published
from src.data.folder import FilesRecipe, Source

logger = logging.getLogger(__name__)

PUBLISHED_SIZE = 64  # pixels, of the cat faces
CAT_DATASET_COMMIT = "c463f7f29d538bf46e5972f040ba16ddddfba533"


class _PublicSet(Source):
    """An archive kept in root (default ~/.cache/cat-faces), fetched from url if absent.

    digest: SHA-256 of what `sha256sum *` prints inside the subfolder; None accepts any contents.
    UserError: no network, other contents, or a image that can't be read.
    """

    title: str
    file_name: str
    subfolder: str
    licence: str

    def __init__(self, root: str | Path | None, url: str, digest: str | None) -> None:
        self.root = Path(root or user_cache_dir()).expanduser()
        self.url = url
        self.digest = digest

    @property
    def archive(self) -> Path:
        return self.root / self.file_name

    @property
    def description(self) -> str:
        return f"{self.title} of {self.archive if self.archive.exists() else self.url} ({self.licence})"

    def load(self, image_size: int, cache_dir: str | Path | None = None) -> ImageDataset:
        if not self.archive.exists():
            logger.info("%s: %s", self.title, self.licence)
        download(self.url, self.archive, self.title, self._check)
        return open_cache(self._recipe(image_size), cache_dir)

    def _recipe(self, image_size: int) -> FilesRecipe:
        return FilesRecipe(self.archive, self.subfolder, Decoding(image_size))

    def _check(self, archive: Path) -> None:
        """Compares the contents with the digest, once for each state of the file; sets a wrong file aside."""
        if self.digest is None:
            return
        stat = archive.stat()
        state = f"{self.digest} {stat.st_size} {stat.st_mtime_ns}\n"
        marker = archive.with_name(f"{archive.name}.checked")
        if marker.exists() and marker.read_text() == state:
            return
        try:
            found = listing_digest(archive, self.subfolder)
        except UserError as error:
            found = f"no digest, as {error}"
        if found != self.digest:
            aside = archive.replace(archive.with_name(f"{archive.name}.wrong"))
            raise UserError(
                f"{self.title} from {self.url} is not the published set: expected {self.digest}, found {found}; "
                f"the file is now {aside}; run again to fetch it anew, give your own images with data=folder "
                "data.root=... or use data=drawn_cats"
            )
        with suppress(OSError):  # where nobody may write, it is checked again
            marker.write_text(state)


class CatFaces(_PublicSet):
    """29,843 crops of 64x64 with many duplicates (AnnikaV9/cat-dataset), about 280 MB.

    clean keeps 9,251 of them: of every group of two or more near-duplicates the smoothest. What is there only once is
    mostly a bad crop or a whole cat. They are chosen among the images as published, whatever size is asked for.

    Licence: mixed or unclear. The repository says MIT, but collects older sets whose photographs are others'.
    """

    URL = f"https://codeload.github.com/AnnikaV9/cat-dataset/tar.gz/{CAT_DATASET_COMMIT}"
    DIGEST = "cc0bcca5aa27709282ff58b26b0d3379c751349590d738e44f49f991810e79df"

    CLEAN_DIGEST = "e529fb7c83df2425a5956fac19edf414f93e9267c4a749c5fbd83ca039f7ea7c"

    title = "cat faces 64x64"
    file_name = f"cat-dataset-{CAT_DATASET_COMMIT}.tar.gz"
    subfolder = "cats"
    licence = "licence mixed or unclear: collected from older public sets"

    def __init__(
        self, root: str | Path | None = None, url: str = URL, digest: str | None = DIGEST, clean: bool = True
    ) -> None:
        super().__init__(root, url, digest)
        self.clean = clean

    def load(self, image_size: int, cache_dir: str | Path | None = None) -> ImageDataset:
        images = super().load(image_size, cache_dir)
        if not self.clean:
            return images
        published = images if image_size == PUBLISHED_SIZE else super().load(PUBLISHED_SIZE, cache_dir)
        clean = {published.names[index] for index in published.columns["clean"].nonzero()[:, 0].tolist()}
        return images.select([index for index, name in enumerate(images.names) if name in clean])

    def _recipe(self, image_size: int) -> FilesRecipe:
        published_list = self.CLEAN_DIGEST if self.digest == self.DIGEST else None
        return _CatFacesRecipe(self.archive, self.subfolder, Decoding(image_size), published_list)


class _CatFacesRecipe(FilesRecipe):
    """Knows which images are on the clean list; clean_digest: that of their names, if it is known."""

    def __init__(self, root: Path, subfolder: str, decoding: Decoding, clean_digest: str | None) -> None:
        super().__init__(root, subfolder, decoding)
        self.clean_digest = clean_digest
        self.options |= {"clean": clean_digest or ""}

    def columns(self, images: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        columns = super().columns(images, names)
        if self.image_size == PUBLISHED_SIZE:
            indices, reading, fits = clean_as_published(images, names, self.clean_digest)
            if not fits:
                logger.warning("the clean list of %d names (%s) is not the published one", len(indices), reading)
            columns["clean"] = np.zeros(len(names), np.int64)
            columns["clean"][indices] = 1
        return columns


class AFHQCat(_PublicSet):
    """5,153 whole heads of 512x512: the training cats of AFHQ v1 (clovaai/stargan-v2).

    Licence: CC BY-NC 4.0, non-commercial use with attribution (Choi et al., 2020).
    """

    URL = "https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1"
    DIGEST = "23108cf71dd780036ce544033b4f177864aead8243e3dc0cac055ce86f36ebf4"

    title = "AFHQ cats"
    file_name = "afhq.zip"
    subfolder = "train/cat"
    licence = "CC BY-NC 4.0: non-commercial, with attribution to Choi et al. (2020)"

    def __init__(self, root: str | Path | None = None, url: str = URL, digest: str | None = DIGEST) -> None:
        super().__init__(root, url, digest)


def listing_digest(archive: Path, subfolder: str) -> str:
    """SHA-256 of what `sha256sum *` prints for the images of an archive's subfolder, names in C order."""
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests(archive, subfolder)))
    return hashlib.sha256(listing.encode()).hexdigest()
