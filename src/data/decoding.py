"""Decode an image file to a square of pixels."""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from src.data.archives import Unusable

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 2**26  # 67 megapixels of a file; its bytes may be few while its pixels fill the memory

Crop = Literal["center", "pad", "stretch"]
Upscale = Literal["allow", "refuse"]


class TooSmall(Unusable):
    """Raised for an image that is fine, but smaller than asked for."""


@dataclass(frozen=True)
class Decoding:
    """Decodes images to squares, uint8 (3, S, S), resized by Lanczos with antialiasing: options of FolderDataModule."""

    image_size: int
    crop: Crop = "center"
    background: str = "white"
    upscale: Upscale = "allow"

    def __call__(self, content: bytes) -> tuple[np.ndarray, tuple[int, int]]:
        """Return the pixels, and the upright image's width and height. Raises Unusable with the reason if it can't."""
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise Unusable(f"{opened.width}x{opened.height} is more than {MAX_PIXELS / 1e6:.0f} megapixels")
                image = ImageOps.exif_transpose(opened)
            size = image.size
            return np.asarray(self._square(image)).transpose(2, 0, 1), size
        except Unusable:
            raise
        except UnidentifiedImageError as error:
            raise Unusable(f"its content is none of {', '.join(FORMATS)}") from error
        except Exception as error:  # Pillow raises nearly anything on a broken file.
            raise Unusable(str(error) or type(error).__name__) from error

    def _square(self, image: Image.Image) -> Image.Image:
        # Operations that change nothing are skipped: Pillow would copy the image.
        size, side = image.size, min(image.size)
        square = target = self.image_size, self.image_size
        if self.crop == "center" and size != (side, side):
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        if self.crop == "pad":
            scale = self.image_size / max(size)
            target = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        if self.upscale == "refuse" and (target[0] > image.width or target[1] > image.height):
            raise TooSmall(f"{size[0]}x{size[1]} is smaller than {self.image_size}x{self.image_size}")
        image = _eight_bits(image)
        if image.has_transparency_data:
            background = Image.new("RGBA", image.size, self.background)
            image = Image.alpha_composite(background, image.convert("RGBA"))
        if image.mode != "RGB":
            image = image.convert("RGB")
        if image.size != target:
            image = image.resize(target, Image.Resampling.LANCZOS)
        if target == square:
            return image
        padded = Image.new("RGB", square, self.background)
        padded.paste(image, ((self.image_size - target[0]) // 2, (self.image_size - target[1]) // 2))
        return padded


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert gray of 16 bits, which Pillow's convert would clip, to 8."""
    if image.mode == "F":
        raise Unusable("floating-point pixels have no agreed white")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise Unusable("pixels of more than 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))
