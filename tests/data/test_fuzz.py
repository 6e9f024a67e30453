"""Damaged and hostile images and archives: an image, a listed reason or a UserError; never a crash or a hang."""

import io
import os
import re
import stat
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.core.errors import UserError
from src.data.archives import Unusable, image_files
from src.data.dataset import ImageDataset
from src.data.decoding import Decoding
from src.data.drawn_cats.factors import draw_cats, draw_factors
from src.data.folder import Folder

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's remarks on what is damaged

SIZE = 32
LARGEST = 2**20  # bytes of an image file here: what is refused for more is made faster
SLOWEST_S = 5.0  # a case takes milliseconds; this is for a hang, on a busy machine
ENCODINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("PNG", "RGB", {}),
    ("PNG", "P", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "I;16", {}),
    ("JPEG", "RGB", {}),
    ("JPEG", "CMYK", {"progressive": True}),
    ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {}),
    ("GIF", "P", {"save_all": True}),
    ("BMP", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_deflate"}),
    ("TIFF", "L", {"compression": "tiff_lzw"}),
]


@cache
def cats() -> np.ndarray:
    """Drawn cats, uint8 (30, 32, 32, 3)."""
    return draw_cats(draw_factors(np.arange(30), seed=0), SIZE).transpose(0, 2, 3, 1)


@cache
def image(index: int = 0) -> bytes:
    """One of the cats as a sound PNG."""
    content = io.BytesIO()
    Image.fromarray(cats()[index]).save(content, "PNG")
    return content.getvalue()


@cache
def encoded(name: str, mode: str) -> bytes:
    image = Image.fromarray(cats()[1])
    image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
    options = next(options for other, others_mode, options in ENCODINGS if (other, others_mode) == (name, mode))
    frames = {"append_images": [image.rotate(90)], "duration": 50} if "save_all" in options else {}
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated
    content = io.BytesIO()
    image.save(content, name, **options, **frames, **({"exif": exif} if name in ("JPEG", "WEBP") else {}))
    return content.getvalue()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Flipped, overwritten, cut out, doubled or cut off, at one to four places; often in the header."""
    pieces = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        end = len(pieces) if rng.random() < 0.5 else min(len(pieces), 64)
        at = int(rng.integers(0, max(1, end)))
        length = int(rng.integers(1, 9))
        match rng.integers(0, 6):
            case 0:
                pieces[at : at + 1] = bytes([pieces[at] ^ (1 << rng.integers(0, 8))]) if at < len(pieces) else b"\0"
            case 1:
                pieces[at : at + length] = rng.bytes(length)
            case 2:
                pieces[at : at + length] = b"\xff" * length
            case 3:
                del pieces[at : at + length]
            case 4:
                pieces[at:at] = pieces[at : at + 8 * length]
            case 5:
                del pieces[at:]
    return bytes(pieces)


def decoded_or_refused(content: bytes) -> bool:
    """Tell whether a file became an image; any other exception than a reason is the test's failure."""
    started = time.monotonic()
    try:
        pixels, size = Decoding(SIZE)(content)
    except Unusable:
        return False
    finally:
        assert time.monotonic() - started < SLOWEST_S
    assert pixels.shape == (3, SIZE, SIZE)
    assert pixels.dtype == np.uint8
    assert min(size) > 0
    return True


def read_or_refused(root: Path) -> int:
    """Count the readable members of an archive, which as a whole may be refused."""
    started, read = time.monotonic(), 0
    with suppress(UserError):
        for file in image_files(root):
            with suppress(Exception):  # of one member anything may come: it is listed
                file.read()
                read += 1
    assert time.monotonic() - started < SLOWEST_S
    return read


@pytest.mark.parametrize(("name", "mode"), [encoding[:2] for encoding in ENCODINGS])
@pytest.mark.parametrize("cases", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_images(name: str, mode: str, cases: int) -> None:
    assert decoded_or_refused(encoded(name, mode))
    results = [
        decoded_or_refused(damaged(encoded(name, mode), np.random.default_rng([seed, cases]))) for seed in range(cases)
    ]
    assert not all(results)


@pytest.mark.parametrize("cases", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_damaged_real_images(shared_cats: Path, cases: int) -> None:
    for archive in ("cat-faces-64.zip", "afhq-sample-512.zip"):
        with zipfile.ZipFile(shared_cats / archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            for seed in range(cases):
                content = packed.read(members[seed % len(members)])
                assert decoded_or_refused(content)
                decoded_or_refused(damaged(content, np.random.default_rng(seed)))


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("cases", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_archives(suffix: str, cases: int, tmp_path: Path) -> None:
    sound = packed({f"cats/cat_{index}.png": image(index) for index in range(4)}, tmp_path / f"sound{suffix}")
    assert read_or_refused(sound) == 4
    content, root = sound.read_bytes(), tmp_path / f"damaged{suffix}"
    for seed in range(cases):
        rng = np.random.default_rng([seed, cases])
        # The end of a zip is its table of contents.
        backwards = suffix == ".zip" and rng.random() < 0.5
        root.write_bytes(damaged(content[::-1], rng)[::-1] if backwards else damaged(content, rng))
        read_or_refused(root)


def packed(members: dict[str, bytes], path: Path) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def png_of(width: int, height: int, data: bytes) -> bytes:
    """A PNG whose header says so, whatever its data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def gif_of(width: int, height: int) -> bytes:
    content = bytearray(encoded("GIF", "P"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def webp_of(width: int, height: int) -> bytes:
    """Two small frames on a canvas that the header calls this large."""
    frames = [Image.fromarray(cat) for cat in cats()[:2]]
    content = io.BytesIO()
    frames[0].save(content, "WEBP", save_all=True, append_images=frames[1:])
    header = content.getvalue()
    assert header[12:16] == b"VP8X"
    return header[:24] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + header[30:]


# What lies beside thirty sound images, and what the manifest says of it: a reason (a regular expression); "" for
# nothing, as it is an image; None for nothing, as it is ignored.
HOSTILE: dict[str, tuple[str, bytes, str | None]] = {
    "zero length": ("cat.png", b"", "none of PNG"),
    "text": ("cat.png", b"I am no image", "none of PNG"),
    "web page": ("cat.jpg", b"<html>log in</html>", "none of PNG"),
    "image of a format not offered": ("cat.png", b"P6 1 1 255 abc", "none of PNG"),
    "script for a program": ("cat.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", "none of PNG"),
    "truncated": ("cat.png", image()[: len(image()) // 2], "."),
    "huge header": ("cat.png", png_of(60_000, 60_000, b"\0"), "megapixels|pixels"),
    "flat bomb": ("cat.png", png_of(20_000, 20_000, bytes(20_000)), "megapixels|pixels"),
    "huge canvas": ("cat.gif", gif_of(65_535, 65_535), "megapixels|pixels"),
    "huge canvas of WebP": ("cat.webp", webp_of(16_383, 16_383), "megapixels|pixels"),
    "no width": ("cat.png", png_of(0, 5, b""), "."),
    "one row of a million": ("cat.png", png_of(1_000_000, 1, bytes(1_000_001)), ""),
    "nested archive": ("more.zip", b"PK\5\6" + bytes(18), None),
    "nested archive called an image": ("more.png", b"PK\5\6" + bytes(18), "none of PNG"),
    "bomb of zeros": ("cat.png", bytes(LARGEST + 1), "no image"),
    "leaves the archive": ("../cat.png", image(), ""),
    "leaves it further on": ("cats/../../../etc/cat.png", image(), ""),
    "absolute": ("/tmp/cat.png", image(), ""),
    "number of 5,000 digits": ("9" * 5000 + ".png", image(), ""),
    "name in no language": ("\u202e\x07\ud7ff.png", image(), ""),
    "hidden": (".cat.png", b"", None),
    "macOS's shadow": ("__MACOSX/._cat.png", b"", None),
}


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_member_among_sound_ones(
    case: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("archives", "folder"):
        monkeypatch.setattr(f"src.data.{module}.LARGEST_FILE", LARGEST)
    name, content, reason = HOSTILE[case]
    sound = {f"cat_{index}.png": image(index) for index in range(30)}
    images = loaded(packed(sound | {name: content}, tmp_path / f"cats{suffix}"), tmp_path)
    assert len(images) == 30 + (reason == "")
    assert len(images.left_out) == bool(reason)
    for _, told in images.left_out:
        assert re.search(str(reason), told)


def loaded(root: Path, tmp_path: Path) -> ImageDataset:
    started = time.monotonic()
    images = Folder(root).load(SIZE, tmp_path / "cache")
    assert time.monotonic() - started < 4 * SLOWEST_S
    return images


def test_member_that_lies_about_its_size(tmp_path: Path) -> None:
    root = packed({f"cat_{index}.png": image(index) for index in range(30)}, tmp_path / "cats.zip")
    content = root.read_bytes()
    at = content.rindex(b"PK\1\2")
    root.write_bytes(content[: at + 24] + struct.pack("<I", 7) + content[at + 28 :])
    assert [name for name, _ in loaded(root, tmp_path).left_out] == ["cat_29.png"]


def test_encrypted_member(tmp_path: Path) -> None:
    root = packed({f"cat_{index}.png": image(index) for index in range(30)}, tmp_path / "cats.zip")
    content = bytearray(root.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    root.write_bytes(content)
    ((name, reason),) = loaded(root, tmp_path).left_out
    assert name == "cat_0.png"
    assert "encrypted" in reason


def test_archive_that_contains_itself_is_not_descended_into(tmp_path: Path) -> None:
    root = packed({"cat.png": image()}, tmp_path / "cats.zip")
    inner = root.read_bytes()
    packed({"cat.png": image(), "cats.zip": inner, "cats.tar.gz": inner}, root)
    assert loaded(root, tmp_path).names == ["cat.png"]


def test_same_name_twice_counts_once(tmp_path: Path) -> None:
    root = tmp_path / "cats.tar"
    with tarfile.open(root, "w") as tar:
        for content in (image(0), image(1)):
            info = tarfile.TarInfo("cat.png")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    images = loaded(root, tmp_path)
    assert np.array_equal(images[:][0].permute(1, 2, 0), cats()[0])
    assert len(images) == 1


def special_members() -> Iterator[tarfile.TarInfo]:
    for name, kind, target in (
        ("link.png", tarfile.SYMTYPE, "/etc/passwd"),
        ("hard.png", tarfile.LNKTYPE, "../../etc/passwd"),
        ("loop.png", tarfile.SYMTYPE, "loop.png"),
        ("pipe.png", tarfile.FIFOTYPE, ""),
        ("device.png", tarfile.CHRTYPE, ""),
        ("folder.png", tarfile.DIRTYPE, ""),
    ):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        yield info


def test_links_and_devices_of_an_archive_are_ignored(tmp_path: Path) -> None:
    root = packed({"cat.png": image()}, tmp_path / "cats.tar")
    with tarfile.open(root, "a") as tar:
        for info in special_members():
            tar.addfile(info)
    assert loaded(root, tmp_path).names == ["cat.png"]
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16  # as `zip --symlinks` writes it
    root = packed({"cat.png": image()}, tmp_path / "cats.zip")
    with zipfile.ZipFile(root, "a") as archive:
        archive.writestr(link, "cat.png")
    assert loaded(root, tmp_path).names == ["cat.png"]
    assert not loaded(root, tmp_path).left_out


def test_special_files_of_a_folder_are_ignored(tmp_path: Path) -> None:
    root = tmp_path / "cats"
    (root / "folder.png").mkdir(parents=True)
    (root / "cat.png").write_bytes(image())
    os.mkfifo(root / "pipe.png")  # to read it would wait for ever
    (root / "loop.png").symlink_to("loop.png")
    (root / "dangling.png").symlink_to("nowhere.png")
    (root / "again").symlink_to(root)
    assert loaded(root, tmp_path).names == ["cat.png"]


def test_names_that_are_no_text_are_names(tmp_path: Path) -> None:
    root = tmp_path / "cats"
    root.mkdir()
    sound = {os.fsdecode(b"\xff\xfe%d.png" % index): image(index) for index in range(30)}
    broken = os.fsdecode(b"broken\xff.png")
    for name, content in (sound | {broken: b""}).items():
        (root / name).write_bytes(content)
    images = loaded(root, tmp_path)
    assert set(images.names) == set(sound)
    assert [name for name, _ in images.left_out] == [broken]
    assert len(images.digest) == 64


def test_a_members_promise_of_a_terabyte_is_not_waited_for(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge.png")
    info.size = 2**40
    root = tmp_path / "cats.tar"
    root.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(512))
    started = time.monotonic()
    with pytest.raises(UserError):
        Folder(root).load(SIZE, tmp_path / "cache")
    assert time.monotonic() - started < SLOWEST_S


NOT_ARCHIVES: dict[str, Callable[[], bytes]] = {
    "zero length": lambda: b"",
    "text": lambda: b"I am no archive\n" * 100,
    "an image": image,
    "zeros": lambda: bytes(10_240),
}


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("what", NOT_ARCHIVES)
def test_what_is_no_archive_is_refused_in_a_sentence(what: str, suffix: str, tmp_path: Path) -> None:
    root = tmp_path / f"cats{suffix}"
    root.write_bytes(NOT_ARCHIVES[what]())
    with pytest.raises(UserError, match=str(root)):
        Folder(root).load(SIZE, tmp_path / "cache")


def test_archive_named_by_another_type_is_refused_or_read(tmp_path: Path) -> None:
    """A tar tells by its content how it is compressed; a zip and a tar are told apart by their names."""
    members = {"cat.png": image()}
    mistaken = packed(members, tmp_path / "a.tar.gz").rename(tmp_path / "a.tar")
    assert loaded(mistaken, tmp_path).names == ["cat.png"]
    with pytest.raises(UserError, match=r"b\.tar"):
        loaded(packed(members, tmp_path / "b.zip").rename(tmp_path / "b.tar"), tmp_path)
    with pytest.raises(UserError, match=r"c\.zip"):
        loaded(packed(members, tmp_path / "c.tar").rename(tmp_path / "c.zip"), tmp_path)
