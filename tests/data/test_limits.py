"""Limits on the memory and the time that a file of images can take, whatever it claims."""

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from src.core.errors import UserError
from src.data.archives import ImageFile, Unusable
from src.data.cache.builder import READ_AHEAD
from src.data.decoding import Decoding
from src.data.folder import Folder

MIB = 2**20


def image(seed: int = 0, size: int = 16) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@contextmanager
def memory(most: int) -> Iterator[None]:
    """Check that Python's objects take at most so many bytes more at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak / MIB:.0f} MiB"


def header(kind: bytes, size: int, name: str = "cat.png") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def long_name(write: Callable[[bytes], Any]) -> None:
    write(header(b"L", 128 * MIB, "././@LongLink"))
    for _ in range(128):
        write(b"a" * MIB)
    write(header(b"0", 0) + bytes(1024))


def extended(write: Callable[[bytes], Any]) -> None:
    record = b"comment=" + b"a" * (128 * MIB) + b"\n"
    record = b"%d %s" % (len(record) + 10, record)
    write(header(b"x", len(record), "extended"))
    write(record.ljust(-(-len(record) // 512) * 512, b"\0"))
    write(header(b"0", 0) + bytes(1024))


def old_sparse(write: Callable[[bytes], Any]) -> None:
    first = bytearray(header(b"S", 0))
    first[482] = 1  # more of the map follows
    write(with_checksum(first))
    more = (b"00000000001\0" * 42) + b"\1" + bytes(7)
    for _ in range(64):
        write(more * 1024)


def new_sparse(write: Callable[[bytes], Any]) -> None:
    fields = ("major=1", "minor=0", "realsize=10", "name=cat.png")
    records = b"".join(b"%d GNU.sparse.%s\n" % (len(field) + 15, field.encode()) for field in fields)
    write(header(b"x", len(records), "extended") + records.ljust(512, b"\0"))
    write(header(b"0", 2**30) + b"900000000\n")
    for _ in range(64):
        write(b"1000\n" * 2**18)


@pytest.mark.parametrize("fill", [long_name, extended, old_sparse, new_sparse])
@pytest.mark.parametrize("is_first", [True, False])
def test_headers_of_a_tar_fill_no_memory(
    fill: Callable[[Callable[[bytes], Any]], None], is_first: bool, tmp_path: Path
) -> None:
    root = tmp_path / "cats.tar.gz"
    with gzip.open(root, "wb", compresslevel=1) as file:
        if not is_first:
            content = image()
            file.write(header(b"0", len(content)) + content + bytes(-len(content) % 512))
        fill(file.write)
    assert root.stat().st_size < 2 * MIB
    with memory(48 * MIB), pytest.raises(UserError, match=r"can't read .*cats\.tar\.gz"):
        Folder(root).load(32, tmp_path / "cache")


def test_long_names_and_sparse_files_are_read(tmp_path: Path) -> None:
    root, long = tmp_path / "cats.tar", f"{'long' * 100}.png"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(root, "w", format=form) as tar:
            for name, content in (("cat.png", image(1)), (long, image(2))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        assert Folder(root).load(32, tmp_path / "cache").names == ["cat.png", long]


def test_what_is_read_ahead_of_a_tar_is_bounded(tmp_path: Path) -> None:
    root, count, size = tmp_path / "cats.tar.gz", 24, 16 * MIB
    zeros = bytes(size)
    with tarfile.open(root, "w:gz", compresslevel=1) as tar:
        for number in range(count):
            info = tarfile.TarInfo(f"cat_{number}.png")
            info.size = size
            tar.addfile(info, io.BytesIO(zeros))
    with memory(READ_AHEAD + 4 * size), pytest.raises(UserError, match=f"can't use {count} of {count} images"):
        Folder(root).load(32, tmp_path / "cache")


def damaged_xz(root: Path) -> None:
    with tarfile.open(root, "w:xz") as tar:
        for number in range(30):
            info = tarfile.TarInfo(f"cat_{number}.png")
            info.size = len(image(number))
            tar.addfile(info, io.BytesIO(image(number)))
    content = bytearray(root.read_bytes())
    content[len(content) // 2] ^= 255
    root.write_bytes(content)


def extended_by(key: str, value: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        with tarfile.open(root, "w", format=tarfile.PAX_FORMAT) as tar:
            for number in range(30):
                info = tarfile.TarInfo(f"cat_{number}.png")
                info.size = len(image(number))
                info.pax_headers = {key: value} if number == 5 else {}
                tar.addfile(info, io.BytesIO(image(number)))

    return write


@pytest.mark.parametrize(
    "write",
    [damaged_xz, extended_by("size", "9" * 400), extended_by("size", "9" * 5000), extended_by("size", "many"),
     extended_by("GNU.sparse.map", "a,b")],
)  # fmt: skip
def test_damaged_tar_ends_in_a_sentence(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "cats.tar")
    with pytest.raises(UserError, match=r"cats\.tar.*(make or fetch it again|fix or remove)"):
        Folder(tmp_path / "cats.tar").load(32, tmp_path / "cache")


def test_file_of_a_tar_that_claims_to_be_huge_is_listed(tmp_path: Path) -> None:
    extended_by("GNU.sparse.size", "9" * 400)(tmp_path / "cats.tar")
    images = Folder(tmp_path / "cats.tar").load(32, tmp_path / "cache")
    assert images.left_out == (("cat_5.png", "a file of more than 256 MiB is no image"),)


def test_zip_whose_names_are_no_utf8_ends_in_a_sentence(tmp_path: Path) -> None:
    root = tmp_path / "cats.zip"
    with zipfile.ZipFile(root, "w") as archive:
        archive.writestr("cät.png", image())
    root.write_bytes(root.read_bytes().replace("ä".encode(), b"\xff\xfe"))
    with pytest.raises(UserError, match=r"can't read .*cats\.zip"):
        Folder(root).load(32, tmp_path / "cache")


def test_tar_whose_names_are_no_utf8_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cats.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin1") as tar:
        info = tarfile.TarInfo("cät.png")
        info.size = len(image())
        tar.addfile(info, io.BytesIO(image()))
    assert Folder(tmp_path / "cats.tar").load(32, tmp_path / "cache").names == ["c\udce4t.png"]


def overlapping(root: Path, count: int, size: int) -> None:
    """Write a zip of files that contain one another, each of `size` zeros at its end (Fifield, 2019)."""
    deflated = gzip.compress(bytes(size), mtime=0)[10:-8]
    data, directory, offsets = deflated, b"", []
    for number in reversed(range(count)):
        # A wrong checksum: it is noticed at the end, when everything has been decompressed.
        name = b"%05d.png" % number
        local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 8, 0, 0, 1, len(data), size, len(name), 0) + name
        offsets.append((name, len(data), len(local)))
        data = b"\0" + struct.pack("<HH", len(local), 65535 - len(local)) + local + data if number else local + data
    total, at = len(data), 0
    for name, compressed, length in reversed(offsets):
        at = total - compressed - length if not directory else at
        start = total - compressed - length
        directory += (
            struct.pack(
                "<IHHHHHHIIIHHHHHII",
                0x02014B50,
                20,
                20,
                0,
                8,
                0,
                0,
                1,
                compressed,
                size,
                len(name),
                0,
                0,
                0,
                0,
                0,
                start,
            )
            + name
        )
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(directory), total, 0)
    root.write_bytes(data + directory + end)


def test_zip_of_overlapping_files_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlapping(tmp_path / "cats.zip", count=4000, size=MIB)
    read: list[str] = []
    decode = Folder.decode

    def noting(self: Folder, files: list[ImageFile], image_size: int) -> Any:
        read.extend(file.name for file in files)
        return decode(self, files, image_size)

    monkeypatch.setattr(Folder, "decode", noting)
    with pytest.raises(UserError, match=r"can't use at least 2\d\d of 4000 images.*at most 5%"):
        Folder(tmp_path / "cats.zip").load(32, tmp_path / "cache")
    assert len(read) < 1000


@pytest.mark.parametrize(("order", "kind"), [("<u2", "PNG"), ("<u2", "TIFF"), (">u2", "TIFF")])
def test_sixteen_bits_are_rounded_to_the_nearest_of_eight(order: str, kind: str) -> None:
    values = np.arange(65536).astype(order)
    content = io.BytesIO()
    Image.fromarray(values.reshape(256, 256)).save(content, kind)
    assert np.array_equal(Decoding(256)(content.getvalue())[0][0].ravel(), np.rint(values / 257))


@pytest.mark.parametrize(("large", "most"), [(100, 1), (2**24, 2)])
def test_large_images_are_decoded_one_at_a_time(
    large: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, lock, inside = list[int](), threading.Lock(), 0

    def counting(*args: Any, **options: Any) -> None:
        nonlocal inside
        with lock:
            inside += 1
            counts.append(inside)
        time.sleep(0.05)
        with lock:
            inside -= 1

    monkeypatch.setattr("src.data.decoding.LARGE", large)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(ImageOps, "exif_transpose", counting)
    monkeypatch.setattr(Folder, "chunk", 1)
    for number in range(8):
        (tmp_path / f"cat_{number}.png").write_bytes(image(number))
    Folder(tmp_path).load(32, tmp_path / "cache")
    assert max(counts) == most


def many_scans(size: int, scans: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (size, size)).save(content, "JPEG", progressive=True)
    last = content.getvalue().rindex(b"\xff\xda")
    return content.getvalue()[:-2] + content.getvalue()[last:-2] * scans + b"\xff\xd9"


def run_lengths(width: int, height: int, codes: bytes) -> bytes:
    palette = bytes(1024)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 0, 0, 256, 0)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(codes), 0, 0, start) + head + palette + codes


@pytest.mark.parametrize("content", [many_scans(1024, 10_000), run_lengths(4096, 4096, b"\0\2\1\0" * 2**22)])
def test_images_that_would_take_minutes_are_left_out(content: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(Unusable, match="take too long to decode"):
        Decoding(32)(content)
    assert time.monotonic() - started < 2


def test_the_scans_of_a_progressive_photo_and_run_lengths_of_a_drawing_are_read() -> None:
    assert Decoding(32)(many_scans(1024, 20))[1] == (1024, 1024)
    assert Decoding(32)(run_lengths(64, 64, b"\x40\0\0\0" * 64 + b"\0\1"))[1] == (64, 64)


def test_tags_that_each_claim_the_whole_file_fill_no_memory() -> None:
    size, count = 4 * MIB, 200
    tags = b"".join(struct.pack("<HHII", 40_000 + number, 1, size, 0) for number in range(count))
    content = (b"II*\0\x08\0\0\0" + struct.pack("<H", count) + tags + bytes(4)).ljust(size, b"\0")
    with memory(32 * MIB), pytest.raises(Unusable):
        Decoding(32)(content)


CODE = """
import os, resource, sys
from src.data.folder import Folder

os.sched_getaffinity = lambda _: set(range(6))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images = Folder(sys.argv[1]).load(32, sys.argv[2])
print(len(images), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_six_images_of_67_megapixels_in_six_threads_take_the_memory_of_one(tmp_path: Path) -> None:
    """One takes 128 MiB of 16-bit pixels, and as much again for each of quotient and remainder."""
    (tmp_path / "cats").mkdir()
    first = tmp_path / "cats" / "cat_0.png"
    Image.fromarray(np.arange(8192**2, dtype=np.uint16).reshape(8192, 8192)).save(first, compress_level=1)
    for number in range(1, 6):
        os.link(first, first.with_name(f"cat_{number}.png"))
    command = [sys.executable, "-c", CODE, str(tmp_path / "cats"), str(tmp_path / "cache")]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    count, kilobytes = map(int, run.stdout.split()[-2:])
    assert count == 6
    assert kilobytes / 1024 < 768
