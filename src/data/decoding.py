"""Decode an image file to a square of pixels."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from src.data.archives import Unusable

register_heif_opener()  # AVIF is read by Pillow itself
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
MAX_PIXELS = 2**26  # 67 megapixels of a file; its bytes may be few while its pixels fill the memory
MAX_WORK = 2**31  # pixels times the passes over them: seconds
PYTHON_PASSES = 2048  # as many passes in C take the time of one in Python
LARGE = 2**24  # pixels of an image that is decoded while no other large one is
ONE_LARGE_IMAGE = threading.Lock()

Box = tuple[float, float, float, float]
MIN_SCORE = 0.5  # of a cat's head that is taken
HEAD_WEIGHTS = Path(__file__).parents[2] / "pretrained" / "cat_heads" / "head.safetensors"

Crop = Literal["center", "pad", "stretch", "cat"]
Upscale = Literal["allow", "refuse"]
Cats = Literal["largest", "all"]
WithoutCat = Literal["skip", "center"]


@dataclass(frozen=True)
class Head:
    """A cat's head: its box from ear tips to chin, (x0, y0, x1, y1) in pixels of the upright photo; score, 0 to 1."""

    box: Box
    score: float


class TooSmall(Unusable):
    """Raised for an image that is fine, but smaller than asked for."""


@dataclass(frozen=True)
class Decoding:
    """Decodes images to squares, uint8 (3, S, S), resized by Lanczos with antialiasing: options of FolderDataModule.

    cats and without_cat are for crop=cat, which src/data/head_crops.py does.
    """

    image_size: int
    crop: Crop = "center"
    background: str = "white"
    upscale: Upscale = "allow"
    cats: Cats = "largest"
    without_cat: WithoutCat = "skip"

    def __call__(self, content: bytes) -> tuple[np.ndarray, tuple[int, int]]:
        """Return the pixels, and the upright image's width and height. Raises Unusable with the reason if it can't."""
        with opened(content) as image:
            return self.square(image), image.size

    def square(self, image: Image.Image) -> np.ndarray:
        """Return the pixels of an upright image, cropped as the options say (cat: as center) and resized."""
        width, height = image.size
        side, size = max(image.size) if self.crop == "pad" else min(image.size), self.image_size
        if self.upscale == "refuse" and side < size:
            raise TooSmall(f"{width}x{height} is smaller than {size}x{size}")
        target = size, size
        if self.crop == "pad":
            target = max(1, round(width * (size / side))), max(1, round(height * (size / side)))
        elif self.crop != "stretch" and width != height:  # a crop is a copy
            left, top = (width - side) // 2, (height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        image = self.rgb(image).resize(target, Image.Resampling.LANCZOS)
        if self.crop == "pad":
            padded = Image.new("RGB", (size, size), self.background)
            padded.paste(image, ((size - target[0]) // 2, (size - target[1]) // 2))
            image = padded
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def rgb(self, image: Image.Image) -> Image.Image:
        """Return an image of any mode as RGB, transparent ones over the background."""
        image = _eight_bits(image)
        if image.has_transparency_data:
            background = Image.new("RGBA", image.size, self.background)
            image = Image.alpha_composite(background, image.convert("RGBA"))
        return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image file and turn it upright. Raises Unusable with the reason for whatever goes wrong inside."""
    try:
        with Image.open(_Content(content), formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise Unusable(f"{image.width}x{image.height} is more than {MAX_PIXELS / 1e6:.0f} megapixels")
            if pixels * _passes(image, content) > MAX_WORK:
                raise Unusable(f"{image.width}x{image.height} in so many passes take too long to decode")
            with ONE_LARGE_IMAGE if pixels > LARGE else nullcontext():
                ImageOps.exif_transpose(image, in_place=True)
                yield image
    except Unusable:
        raise
    except UnidentifiedImageError as error:
        raise Unusable(f"its content is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow raises nearly anything on a broken file.
        raise Unusable(str(error) or type(error).__name__) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert gray of 16 bits, which Pillow's convert would clip, to 8."""
    if image.mode == "F":
        raise Unusable("floating-point pixels have no agreed white")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise Unusable("pixels of more than 16 bits")
    whole, rest = np.divmod(values, 257)  # whole numbers: floats would take eight times the memory
    return Image.fromarray((whole + (rest > 128)).astype(np.uint8))


def _passes(image: Image.Image, content: bytes) -> int:
    """Return how many times the decoder goes through the pixels."""
    if image.format == "BMP" and image.info.get("compression") in (1, 2):  # run lengths
        return PYTHON_PASSES
    return content.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1


class _Content(io.BytesIO):
    """A file in memory that is read twice at most: the tags of a TIFF may each claim all of it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.left = 2 * len(content) + 2**20

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.left -= len(content)
        if self.left < 0:
            raise Unusable("its parts overlap")
        return content
