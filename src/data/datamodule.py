"""A LightningDataModule over any source of images, and a constructor for each source."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from src.core.errors import UserError, printable
from src.core.images import from_uint8
from src.core.seeds import mixed_seed, seed_generators
from src.core.types import (
    BatchSize,
    Color,
    DrawnImages,
    FolderPath,
    Fraction,
    ImageSize,
    ImagesPath,
    NonNegativeInt,
    PositiveInt,
    Seed,
)
from src.data.archives import listed
from src.data.cache.builder import CachedSource
from src.data.dataset import ImageDataset, split
from src.data.drawn_cats.source import DrawnCats
from src.data.folder import Folder
from src.data.public import AFHQCat, CatFaces
from src.data.sampler import ImageStream, stream_positions
from src.networks.augmentation import Augmentation


@dataclass(eq=False, repr=False)
class ImageDataModule(LightningDataModule):
    """Batches (N, 3, image_size, image_size) in [-1, 1] of a source's images.

    batch_size: images of all ranks together. num_workers: processes that make batches (0: the training process itself,
    fastest for small images). split_seed decides which images are held out, seed their order and flips. limit_images
    keeps only the first few. augmentation changes training batches, on the device. deduplicate keeps the smoothest of
    images that look the same; without it they stay on one side of the split. cache_dir: the folder that keeps decoded
    images (None: the user's cache).
    """

    source: CachedSource
    image_size: ImageSize = 64
    batch_size: BatchSize = 64
    horizontal_flip: bool = True
    val_fraction: Fraction = 0.05
    num_workers: NonNegativeInt = 0
    split_seed: Seed = 0
    seed: Seed = 0
    limit_images: PositiveInt | None = None
    augmentation: Augmentation | None = None
    deduplicate: bool = False
    cache_dir: FolderPath | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self.train: ImageDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        if self.train is not None:
            return
        images = self.source.load(self.image_size, self.cache_dir)
        if images.left_out and self.rank_and_world_size()[0] == 0:
            count, (name, reason) = len(images.left_out), images.left_out[0]
            print(
                f"data: {count:,} of {count + len(images):,} images left out: {printable(name)} ({printable(reason)})"
                f"{', ...' if count > 1 else ''}; listed in {images.manifest}",
                file=sys.stderr,
            )
        if images.unread and self.rank_and_world_size()[0] == 0:
            print(f"data: files that are not read, by ending: {printable(listed(images.unread))}", file=sys.stderr)
        if self.deduplicate and "smoothest" in images.columns:
            images = images.select(images.columns["smoothest"].bool())
        if self.limit_images:
            images = images.select(slice(self.limit_images))
        if len(images) < 2:
            raise UserError(
                f"{self.source.description}: only {len(images)} image; give at least 2, one to train on and one to "
                "hold out, and some thousands for new cats"
            )
        train, self.val = split(images, self.val_fraction, self.split_seed)
        if not len(train):
            raise UserError(
                f"data.val_fraction={self.val_fraction} of {len(images)} images leaves none to train on; give less, "
                "such as data.val_fraction=0.05"
            )
        self.train = train

    def images(self, reference: Literal["train", "val"], max_images: int | None = None) -> ImageDataset:
        """Return the training or the held-out images as they are: uint8, not augmented.

        If there are more than max_images, only every second, third, ... is returned, so that the rest spans all.
        Raises UserError if there are none.
        """
        self.setup()
        assert self.train is not None
        images = self.train if reference == "train" else self.val
        if not len(images):
            raise UserError(
                f"no images are held out: data.val_fraction={self.val_fraction} of {len(self.train)}; give "
                f"data.val_fraction of at least {1 / len(self.train):.2g} or reference=train"
            )
        return images.select(slice(None, None, -(-len(images) // max_images))) if max_images else images

    def share(
        self, reference: Literal["train", "val"], batch_size: int, max_images: int | None = None
    ) -> Iterator[Tensor]:
        """Yield this rank's part of images(reference, max_images) in uint8 batches; each image goes to one rank."""
        rank, world_size = self.rank_and_world_size()
        yield from self.images(reference, max_images).select(slice(rank, None, world_size)).batches(batch_size)

    def rank_and_world_size(self) -> tuple[int, int]:
        """Return this process's rank and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        """Return an endless stream of uint8 batches that continues where the model stands."""
        rank, world_size = self.rank_and_world_size()  # the launcher checks that they can share a batch
        start, device_type = 0, "cpu"
        if self.trainer:
            start = cast(int, self.trainer.lightning_module.images_seen)
            device_type = self.trainer.strategy.root_device.type
        return DataLoader(
            ImageStream(self.images("train"), self.seed, self.horizontal_flip),
            batch_size=None,
            sampler=stream_positions(start, self.batch_size, rank, world_size),
            num_workers=self.num_workers,
            pin_memory=device_type == "cuda",
        )

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        # Bytes are moved to the device and become floats there.
        assert self.trainer is not None
        model = self.trainer.lightning_module
        images = from_uint8(batch).to(cast(torch.dtype, model.dtype))
        if self.augmentation is None or not self.trainer.training:
            return images
        # Lightning moves a batch before StepSeeds seeds its step.
        images_seen = cast(int, model.images_seen)
        seed_generators(mixed_seed(self.seed, self.trainer.global_rank, images_seen), images.device)
        return self.augmentation(images, images_seen)


class DrawnCatsDataModule(ImageDataModule):
    """The embedded data set: cats drawn by a program, no download."""

    def __init__(self, num_images: DrawnImages, drawing_seed: Seed, **options: Any) -> None:
        super().__init__(DrawnCats(num_images, drawing_seed), **options)


class FolderDataModule(ImageDataModule):
    """Your own images: a folder, .zip, .tar or .tar.gz.

    crop: the centered square of images that are not square, all of them padded with the background, or stretched; cat
    finds the heads in photos and takes the largest of each, or all (cats); a photo without is left out, or gives its
    center (without_cat). background: a color, also behind transparent images. upscale: smaller images are enlarged, or
    refused (left out). on_error: images that can't be used are skipped (left out and listed; more than 5% that can't be
    read always stop), or stop.
    """

    def __init__(
        self,
        root: ImagesPath,
        crop: Literal["center", "pad", "stretch", "cat"] = "center",
        cats: Literal["largest", "all"] = "largest",
        without_cat: Literal["skip", "center"] = "skip",
        background: Color = "white",
        upscale: Literal["allow", "refuse"] = "allow",
        on_error: Literal["skip", "stop"] = "skip",
        **options: Any,
    ) -> None:
        source = Folder(
            root, "", on_error, crop=crop, cats=cats, without_cat=without_cat, background=background, upscale=upscale
        )
        super().__init__(source, **options)


class CatFacesDataModule(ImageDataModule):
    """The public 64x64 cat faces, downloaded to the folder `root` (None: the user's cache).

    clean: 9,251 tight faces, the smoothest of each image that is there more than once; False: all 29,843.
    """

    def __init__(self, root: FolderPath | None = None, clean: bool = True, **options: Any) -> None:
        super().__init__(CatFaces(root, clean), **options)


class AFHQCatDataModule(ImageDataModule):
    """The cats of AFHQ, downloaded to the folder `root` (None: the user's cache)."""

    def __init__(self, root: FolderPath | None = None, **options: Any) -> None:
        super().__init__(AFHQCat(root), **options)
