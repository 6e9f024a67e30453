"""Films of images: WebP and GIF by Pillow, MP4 by PyAV, enlarged for people to look at."""

import io
from collections.abc import Sequence
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from src.core.images import to_pillow

FilmKind = Literal["webp", "gif", "mp4"]
Scale = Literal["nearest", "bicubic"]
SHOWN = 512  # pixels of the longer side that films are enlarged to


def film_bytes(frames: Sequence[Tensor], kind: str, scale: Scale | None = None, frames_per_second: float = 12) -> bytes:
    """Return the content of a film of the frames, uint8 (3, H, W) each; WebP and GIF loop for ever.

    scale: nearest, by the largest whole number that keeps the frames within SHOWN pixels, or bicubic, to SHOWN.
    """
    images = [enlarged(to_pillow(frame), scale) for frame in frames]
    with io.BytesIO() as file:
        if kind == "mp4":
            write_mp4(images, file, frames_per_second)
        else:
            options: dict[str, Any] = {"quality": 80, "method": 4} if kind == "webp" else {}
            duration = round(1000 / frames_per_second)
            images[0].save(
                file, kind.upper(), save_all=True, append_images=images[1:], duration=duration, loop=0, **options
            )
        return file.getvalue()


def enlarged(image: Image.Image, scale: Scale | None) -> Image.Image:
    """Return an image enlarged for people to look at, as film_bytes says; one that is large already stays as it is."""
    factor = SHOWN / max(image.size)
    if scale is None or factor <= 1:
        return image
    if scale == "nearest":
        factor = int(factor)
    size = round(image.width * factor), round(image.height * factor)
    return image.resize(size, Image.Resampling[scale.upper()])


def write_mp4(images: Sequence[Image.Image], file: io.BytesIO, frames_per_second: float) -> None:
    """Write H.264 that browsers, telephones and chat programs play: 4:2:0, of even width and height."""
    import av  # its libraries take 60 MB, and few films are MP4

    width, height = images[0].width // 2 * 2, images[0].height // 2 * 2
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(frames_per_second), options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in images:
            frame = av.VideoFrame.from_image(image.crop((0, 0, width, height)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
