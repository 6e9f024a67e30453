import json
import multiprocessing
import os
import pickle
import random
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.core.errors import UserError
from src.core.files import locked
from src.data.cache.builder import ImageCache
from src.data.dataset import ImageDataset
from src.data.decoding import Decoding
from src.data.drawn_cats.factors import draw_cats
from src.data.drawn_cats.source import DrawnCats, program_digest
from src.data.folder import Folder
from tests.helpers.building import build, pixels_digest

# Processes that start at once: forked from one that has imported everything and runs no threads.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.helpers.building"])


def fill(folder: Path, count: int = 12, size: int = 40, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 256, (size, size + 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"cat_{number}.png")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the images that were decoded."""
    sizes: list[int] = []
    original = Decoding.__call__

    def counting(self: Decoding, content: bytes) -> Any:
        sizes.append(self.image_size)
        return original(self, content)

    monkeypatch.setattr(Decoding, "__call__", counting)
    return sizes


def caches(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/manifest.json"))


def same(one: ImageDataset, other: ImageDataset) -> bool:
    return one.names == other.names and torch.equal(one[:], other[:]) and one.digest == other.digest


def test_images_are_decoded_once(tmp_path: Path, decoded: list[int]) -> None:
    folder = fill(tmp_path / "cats")
    first, again = (Folder(folder).load(32, tmp_path / "cache") for _ in range(2))
    assert decoded == [32] * 12
    assert same(first, again)
    assert first.names == [f"cat_{number}.png" for number in range(12)]
    for position, name in enumerate(first.names):
        expected = Decoding(32)((folder / name).read_bytes())[0]
        assert np.array_equal(first[[position]][0].numpy(), expected)


def test_nothing_is_decoded_again_for_files_that_are_no_images(tmp_path: Path, decoded: list[int]) -> None:
    folder = fill(tmp_path / "cats")
    first = Folder(folder).load(32, tmp_path / "cache")
    (folder / "notes.txt").write_text("no image")
    assert same(Folder(folder).load(32, tmp_path / "cache"), first)
    assert len(decoded) == 12
    assert len(caches(tmp_path / "cache")) == 1


def swap(folder: Path) -> None:
    """Other pixels under the same name, of the same size in bytes, at the same time."""
    path = folder / "cat_0.png"
    stat, content = path.stat(), bytearray(path.read_bytes())
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    path.write_bytes(path.read_bytes().ljust(len(content), b"\0")[: max(len(content), path.stat().st_size)])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def rename(folder: Path) -> None:
    (folder / "cat_0.png").rename(folder / "kitten.png")


def remove(folder: Path) -> None:
    (folder / "cat_0.png").unlink()


def add(folder: Path) -> None:
    Image.new("RGB", (50, 50), "teal").save(folder / "cat_99.png")


@pytest.mark.parametrize("change", [swap, rename, remove, add])
def test_changed_images_are_decoded_again(change: Callable[[Path], None], tmp_path: Path) -> None:
    folder = fill(tmp_path / "cats")
    before = Folder(folder).load(32, tmp_path / "cache")
    pixels_of_the_first = pixels_digest(before)
    change(folder)
    after = Folder(folder).load(32, tmp_path / "cache")
    fresh = Folder(folder).load(32, tmp_path / "another cache")
    assert same(after, fresh)
    assert before.digest != after.digest
    assert pixels_digest(before) == pixels_of_the_first  # who reads them goes on


def test_folders_that_swap_their_names_are_told_apart(tmp_path: Path) -> None:
    """Files of the same size whose times the clock of the file system can't tell apart."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, color in ((one, "teal"), (other, "pink")):
        folder.mkdir()
        Image.new("RGB", (32, 32), color).save(folder / "cat.bmp")
    paths = one / "cat.bmp", other / "cat.bmp"
    for _ in range(10_000):
        for path in paths:
            os.utime(path, ns=(1, 1))
        if len({(path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in paths}) == 1:
            break
    else:
        pytest.skip("the clock of this file system tells any two writes apart")
    teal = Folder(one).load(32, tmp_path / "cache")[:]
    one.rename(tmp_path / "aside")
    other.rename(one)
    assert not torch.equal(Folder(one).load(32, tmp_path / "cache")[:], teal)


@pytest.mark.parametrize("other", [{"crop": "pad"}, {"background": "black"}, {"upscale": "refuse"}])
def test_every_way_of_decoding_has_its_own_cache(other: dict[str, Any], tmp_path: Path, decoded: list[int]) -> None:
    folder = fill(tmp_path / "cats")
    one = Folder(folder).load(32, tmp_path / "cache")
    two = Folder(folder, **other).load(32, tmp_path / "cache")
    small = Folder(folder).load(16, tmp_path / "cache")
    assert len({one.digest, two.digest, small.digest}) == 3
    assert len(decoded) == 36
    assert len(caches(tmp_path / "cache")) == 3


def test_images_that_change_while_they_are_decoded_are_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "cats")
    build = ImageCache.build

    def and_change(cache: ImageCache) -> ImageDataset:
        images = build(cache)
        swap(folder)
        return images

    with monkeypatch.context() as patch:
        patch.setattr(ImageCache, "build", and_change)
        Folder(folder).load(32, tmp_path / "cache")
    assert same(Folder(folder).load(32, tmp_path / "cache"), Folder(folder).load(32, tmp_path / "another cache"))


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [spoil, cut, empty, Path.unlink])
@pytest.mark.parametrize("name", ["pixels", "manifest.json", "manifest.sha256"])
def test_damaged_cache_is_reported_and_rebuilt(
    name: str, damage: Callable[[Path], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = DrawnCats(20, seed=0).load(32, tmp_path)
    expected = whole[:]
    (folder,) = caches(tmp_path)
    damage(folder / name)
    again = DrawnCats(20, seed=0).load(32, tmp_path)
    assert torch.equal(again[:], expected)
    assert again.factors is not None
    assert "damaged" in capfd.readouterr().err
    assert caches(tmp_path) == [folder]
    DrawnCats(20, seed=0).load(32, tmp_path)
    assert capfd.readouterr().err == ""


def test_a_moved_cache_is_read_where_it_is(tmp_path: Path, decoded: list[int]) -> None:
    folder = fill(tmp_path / "cats")
    first = Folder(folder).load(32, tmp_path / "cache")
    shutil.copytree(tmp_path / "cache", tmp_path / "copy", copy_function=shutil.copyfile)  # without its times
    assert same(Folder(folder).load(32, tmp_path / "copy"), first)
    assert len(decoded) == 12


def test_manifest_lists_every_file(tmp_path: Path) -> None:
    folder = fill(tmp_path / "cats", count=40)
    (folder / "broken.png").write_bytes((folder / "cat_0.png").read_bytes()[:100])
    Image.new("RGB", (8, 20)).save(folder / "small.png")
    images = Folder(folder, upscale="refuse").load(32, tmp_path / "cache")
    assert [name for name, _ in images.left_out] == ["broken.png", "small.png"]
    assert "8x20 is smaller than 32x32" in dict(images.left_out)["small.png"]
    assert images.columns["size"].tolist() == [[42, 40]] * 40
    assert images.manifest is not None
    written = json.loads(images.manifest.read_text())
    assert written["left_out"] == [list(entry) for entry in images.left_out]
    assert [row[0] for row in written["images"]] == images.names
    with pytest.raises(UserError, match=r"broken\.png.*on_error=skip"):
        Folder(folder, upscale="refuse", on_error="stop").load(32, tmp_path / "cache")


@pytest.mark.parametrize(("num_broken", "stops"), [(2, False), (3, True)])
def test_more_than_one_in_twenty_unreadable_stops(num_broken: int, stops: bool, tmp_path: Path) -> None:
    folder = fill(tmp_path / "cats", count=40 - num_broken)
    for number in range(num_broken):
        (folder / f"bad_{number}.png").write_bytes(b"no image")
    if stops:
        with pytest.raises(UserError, match=r"can't use at least 3 of 40 images of cats.*5%.*bad_0\.png \(its content"):
            Folder(folder).load(32, tmp_path / "cache")
        assert caches(tmp_path / "cache") == []
        assert not list((tmp_path / "cache").glob(".building*"))
    else:
        assert len(Folder(folder).load(32, tmp_path / "cache").left_out) == 2


def test_refused_sizes_do_not_count_as_unreadable_but_some_must_be_left(tmp_path: Path) -> None:
    folder = fill(tmp_path / "cats", count=4)
    for number in range(6):
        Image.new("RGB", (8, 8)).save(folder / f"small_{number}.png")
    assert len(Folder(folder, upscale="refuse").load(32, tmp_path / "cache")) == 4
    with pytest.raises(UserError, match="can't use 10 of 10"):
        Folder(folder, upscale="refuse").load(64, tmp_path / "cache")


def test_groups_and_the_smoothest_of_each_are_kept(tmp_path: Path) -> None:
    folder = fill(tmp_path / "cats", count=6)
    Image.open(folder / "cat_2.png").point(lambda value: value * 0.8).save(folder / "cat_4.png")
    images = Folder(folder).load(32, tmp_path / "cache")
    assert images.groups.tolist() == [0, 1, 2, 3, 2, 5]
    assert images.columns["smoothest"].sum() == 5


def test_factors_are_kept_with_the_images_they_drew(tmp_path: Path) -> None:
    images = DrawnCats(70, seed=3).load(32, tmp_path)
    assert images.factors is not None
    assert images.factors.shape == (70, 24)
    redrawn = draw_cats(images.factors[[5, 69]].numpy(), 32)
    assert torch.equal(images[[5, 69]], torch.from_numpy(redrawn))
    assert images.groups.tolist() == list(range(70))


def test_another_drawing_program_draws_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = DrawnCats(4, seed=0).load(32, tmp_path)
    monkeypatch.setattr("src.data.drawn_cats.source.program_digest", lambda: "another")
    assert DrawnCats(4, seed=0).load(32, tmp_path).digest != one.digest
    assert len(program_digest()) == 16


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"can't keep the decoded images in .*file/cache: .*data\.cache_dir="):
        DrawnCats(4, seed=0).load(32, tmp_path / "file" / "cache")


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.data.cache.manifest.write_atomic", lambda *_, **__: Path("/dev/full").write_text("x" * 9000))
        with pytest.raises(UserError, match=r"can't keep the decoded images in .*: No space left on device"):
            DrawnCats(4, seed=0).load(32, tmp_path)
    assert not list(tmp_path.glob(".building*"))
    assert len(DrawnCats(4, seed=0).load(32, tmp_path)) == 4


def test_the_default_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    DrawnCats(2, seed=0).load(32)
    assert len(caches(tmp_path / "cat-faces" / "images")) == 1


def test_images_sent_to_another_process_are_read_there(tmp_path: Path) -> None:
    images = DrawnCats(8, seed=0).load(32, tmp_path)
    sent = pickle.loads(pickle.dumps(images))
    assert torch.equal(sent[[3, 0]], images[[3, 0]])


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(folder: Path, cache_dir: Path, result: Path) -> BaseProcess:
    process = FORKS.Process(target=build, args=(folder, cache_dir, result))
    process.start()
    return process


@pytest.mark.slow
def test_a_process_that_finds_a_cache_being_built_waits_and_says_so(tmp_path: Path) -> None:
    folder, said = fill(tmp_path / "cats"), tmp_path / "result.err"
    with building(tmp_path / "cache", folder):
        waiting = start(folder, tmp_path / "cache", tmp_path / "result")
        wait_until(lambda: said.exists() and "another process is decoding cats; waiting for it" in said.read_text())
        assert waiting.is_alive()
    waiting.join(60)
    assert (tmp_path / "result").read_text() == pixels_digest(Folder(folder).load(32, tmp_path / "cache"))


def building(cache_dir: Path, folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of the folder's cache, as if this process were building it."""
    (cache_dir / "locks").mkdir(parents=True)
    return locked(ImageCache(Folder(folder), 32, cache_dir).lock)


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_build_leaves_nothing_that_is_taken_for_a_cache(kills: int, tmp_path: Path) -> None:
    """Two processes build one cache at once, and one of them is killed at a random moment."""
    folder = fill(tmp_path / "cats", count=150)
    expected = pixels_digest(Folder(folder).load(32, tmp_path / "expected"))
    for warm in (True, False):
        started = time.monotonic()
        start(folder, tmp_path / f"cache {warm}", tmp_path / "result").join(60)
        duration = time.monotonic() - started
    rng = random.Random(0)
    killed_while_building = 0
    for number in range(kills):
        root = tmp_path / f"cache {number}"
        results = [tmp_path / f"{number} {index}" for index in range(2)]
        processes = [start(folder, root, result) for result in results]
        time.sleep(rng.uniform(0, duration))
        victim, other = rng.sample([0, 1], 2)
        processes[victim].kill()
        processes[victim].join(60)
        killed_while_building += not results[victim].exists()
        processes[other].join(60)
        assert processes[other].exitcode == 0
        assert results[other].read_text() == expected
        assert not results[victim].exists() or results[victim].read_text() in ("", expected)
        assert pixels_digest(Folder(folder).load(32, root)) == expected
        assert not list(root.glob(".building*"))
        assert len(caches(root)) == 1
        shutil.rmtree(root)
    assert killed_while_building >= kills // 4  # the others were quicker, or came second


def test_leftovers_of_a_killed_build_are_removed_by_the_next_one(tmp_path: Path) -> None:
    folder = fill(tmp_path / "cats")
    leftover = tmp_path / "cache" / f"{ImageCache(Folder(folder), 32, tmp_path / 'cache').building}half"
    leftover.mkdir(parents=True)
    (leftover / "pixels").write_bytes(b"half")
    DrawnCats(2, seed=0).load(32, tmp_path / "cache")  # others stay: they may be in use
    assert leftover.exists()
    add(folder)
    Folder(folder).load(32, tmp_path / "cache")
    assert not leftover.exists()
