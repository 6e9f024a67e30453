import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.data.archives import Unusable
from src.data.decoding import MAX_PIXELS, Crop, Decoding, TooSmall


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def load_one(path: Path, image_size: int) -> np.ndarray:
    """A image file's pixels, (S, S, 3)."""
    return Decoding(image_size)(path.read_bytes())[0].transpose(1, 2, 0)


def packed(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (50, 50), (20, 20), (32, 32)])
def test_image_is_lanczos_of_its_centered_square(tmp_path: Path, height: int, width: int) -> None:
    pixels = noise(height, width)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    expected = np.asarray(square.resize((32, 32), Image.Resampling.LANCZOS))
    assert np.array_equal(load_one(tmp_path / "a.png", 32), expected)


def test_image_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.webp", lossless=True)
    assert np.array_equal(load_one(tmp_path / "a.webp", 32), noise(32, 32))


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_is_three_equal_channels(tmp_path: Path, mode: str) -> None:
    gray = Image.fromarray(noise(8, 8)).convert(mode)
    gray.save(tmp_path / "a.png")
    expected = np.asarray(gray).astype(np.uint8) * (255 if mode == "1" else 1)
    assert np.array_equal(load_one(tmp_path / "a.png", 8), np.stack([expected] * 3, axis=2))


def test_16_bit_gray_is_scaled_to_8(tmp_path: Path) -> None:
    values = np.array([[0, 257], [65535, 32896]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert load_one(tmp_path / "a.png", 2)[:, :, 1].tolist() == [[0, 1], [255, 128]]


def test_palette_gives_its_colors(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([255, 0, 0, 1, 2, 3])
    image.putdata([0, 1, 1, 0])
    image.save(tmp_path / "a.png")
    assert load_one(tmp_path / "a.png", 2).tolist() == [[[255, 0, 0], [1, 2, 3]], [[1, 2, 3], [255, 0, 0]]]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 10, 0)), [255, 255, 255]),
        (Image.new("RGBA", (2, 2), (255, 0, 10, 255)), [255, 0, 10]),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 51)), [255, 204, 204]),
        (Image.new("LA", (2, 2), (0, 51)), [204, 204, 204]),
    ],
)
def test_alpha_is_over_white(tmp_path: Path, image: Image.Image, expected: list[int]) -> None:
    image.save(tmp_path / "a.png")
    assert load_one(tmp_path / "a.png", 2)[0, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_transparent_color_is_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 2), 0)
    image.save(tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert load_one(tmp_path / "a.png", 2)[0, 0].tolist() == [255, 255, 255]


def test_cmyk_is_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(load_one(tmp_path / "a.jpg", 16) - np.array([255.0, 0, 0])).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_exif_orientation_turns_the_image(tmp_path: Path, suffix: str, orientation: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for folder, tags in (("plain", Image.Exif()), ("turned", exif)):
        (tmp_path / folder).mkdir()
        Image.fromarray(noise(24, 24)).save(tmp_path / folder / f"a.{suffix}", exif=tags, lossless=True)
    plain = load_one(tmp_path / "plain" / f"a.{suffix}", 24)
    assert np.array_equal(load_one(tmp_path / "turned" / f"a.{suffix}", 24), np.rot90(plain, turns))


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PNG", "WEBP"])
def test_formats_without_loss_are_read_exactly(format: str) -> None:
    image = Image.fromarray(noise(8, 8)).quantize(16).convert("RGB")
    content = packed(image, format, lossless=True)
    assert np.array_equal(Decoding(8)(content)[0].transpose(1, 2, 0), np.asarray(image))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    content = packed(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(Decoding(8)(content)[0][:, 0, 0], [255, 0, 0])


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_formats_of_phones_are_read_upright(format: str) -> None:
    y, x = np.mgrid[:64, :96]
    image = Image.fromarray(np.stack([x * 2, y * 3, 255 - x], -1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned = packed(image.rotate(90, expand=True), format, quality=95, exif=exif.tobytes())
    for content in (packed(image, format, quality=95), turned):
        pixels, size = Decoding(64, "stretch")(content)
        assert size == (96, 64)
        expected = np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
        assert np.abs(pixels.astype(int) - expected).mean() < 3
    with pytest.raises(Unusable):
        Decoding(64)(turned[: len(turned) // 2])


def test_size_is_that_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert Decoding(8)(packed(Image.new("RGB", (30, 20)), exif=exif))[1] == (20, 30)


@pytest.mark.parametrize(("width", "height", "target"), [(40, 20, (16, 8)), (20, 40, (8, 16)), (1000, 3, (16, 1))])
def test_pad_keeps_the_whole_image_over_the_background(width: int, height: int, target: tuple[int, int]) -> None:
    image = Image.fromarray(noise(height, width))
    padded = Decoding(16, crop="pad", background="#102030")(packed(image))[0].transpose(1, 2, 0)
    left, top = (16 - target[0]) // 2, (16 - target[1]) // 2
    expected = np.full((16, 16, 3), [0x10, 0x20, 0x30], np.uint8)
    resized = np.asarray(image.resize(target, Image.Resampling.LANCZOS))
    expected[top : top + target[1], left : left + target[0]] = resized
    assert np.array_equal(padded, expected)


def test_stretch_takes_the_whole_image() -> None:
    image = Image.fromarray(noise(20, 40))
    stretched = Decoding(16, crop="stretch")(packed(image))[0].transpose(1, 2, 0)
    assert np.array_equal(stretched, np.asarray(image.resize((16, 16), Image.Resampling.LANCZOS)))


def test_background_shows_through_what_is_transparent() -> None:
    content = packed(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))
    assert Decoding(4, background="navy")(content)[0][:, 0, 0].tolist() == [0, 0, 128]


@pytest.mark.parametrize(
    ("crop", "width", "height", "refused"),
    [("center", 40, 32, False), ("center", 40, 31, True), ("pad", 32, 9, False), ("pad", 31, 9, True),
     ("stretch", 32, 32, False), ("stretch", 90, 31, True)],
)  # fmt: skip
def test_refused_is_what_would_be_enlarged(crop: Crop, width: int, height: int, refused: bool) -> None:
    content = packed(Image.new("RGB", (width, height)))
    allowing, refusing = Decoding(32, crop=crop), Decoding(32, crop=crop, upscale="refuse")
    assert allowing(content)[0].shape == (3, 32, 32)
    if refused:
        with pytest.raises(TooSmall, match=f"{width}x{height} is smaller than 32x32"):
            refusing(content)
    else:
        assert np.array_equal(refusing(content)[0], allowing(content)[0])


def test_a_bomb_is_refused_by_its_header() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    content = packed(Image.new("1", (side, side)))
    assert len(content) < 100_000
    with pytest.raises(Unusable, match=f"{side}x{side} is more than 67 megapixels"):
        Decoding(32)(content)


@pytest.mark.parametrize("values", [np.ones((4, 4), np.float32), np.full((4, 4), 70_000, np.int32)])
def test_pixels_without_a_known_white_are_refused(values: np.ndarray) -> None:
    with pytest.raises(Unusable, match="pixels"):
        Decoding(4)(packed(Image.fromarray(values), "TIFF"))
