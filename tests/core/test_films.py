"""Films are read back by the libraries that others use for them."""

import io
from typing import Any, cast

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from src.core.films import Scale, enlarged, film_bytes


def frames(count: int = 6, size: int = 64) -> list[Tensor]:
    """A bright square that moves to the right over a dark ground."""
    made = torch.full((count, 3, size, size), 30, dtype=torch.uint8)
    for index, frame in enumerate(made):
        frame[0, 16:32, 8 * index : 8 * index + 16] = 220
    return list(made)


def read(content: bytes, kind: str) -> np.ndarray:
    """Return the frames of a film, (N, H, W, 3)."""
    if kind == "mp4":
        with av.open(io.BytesIO(content), "r") as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with Image.open(io.BytesIO(content)) as image:
        assert image.info["loop"] == 0
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


@pytest.mark.parametrize("kind", ["webp", "gif", "mp4"])
@pytest.mark.parametrize(("scale", "size"), [(None, 64), ("nearest", 512), ("bicubic", 512)])
def test_film_shows_each_frame_in_turn(kind: str, scale: Scale | None, size: int) -> None:
    given = frames()
    found = read(film_bytes(given, kind, scale), kind)
    assert found.shape == (6, size, size, 3)
    small = np.stack([np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BOX)) for frame in found])
    error = np.abs(small.astype(float) - torch.stack(given).permute(0, 2, 3, 1).numpy()).mean()
    assert error < 4  # of 255: their compression


def test_mp4_plays_where_sizes_are_odd_and_at_the_asked_speed() -> None:
    content = film_bytes(frames(size=65), "mp4", frames_per_second=3)
    with av.open(io.BytesIO(content)) as container:
        stream = cast(Any, container.streams.video[0])
        assert (stream.width, stream.height, stream.pix_fmt) == (64, 64, "yuv420p")
        assert stream.codec_context.name == "h264"
        assert float(stream.average_rate) == 3
        assert stream.duration * stream.time_base == 2


def test_enlarging_by_nearest_repeats_pixels_and_leaves_large_images() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 100, 3), np.uint8))
    np.testing.assert_array_equal(enlarged(image, "nearest"), np.asarray(image).repeat(5, 0).repeat(5, 1))
    assert enlarged(image, "bicubic").size == (512, 256)
    assert enlarged(image.resize((600, 20)), "nearest").size == (600, 20)
    assert enlarged(image, None) is image
