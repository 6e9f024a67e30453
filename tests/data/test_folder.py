import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.core.errors import UserError
from src.data.drawn_cats.factors import draw_factors
from src.data.drawn_cats.source import DrawnCats
from src.data.folder import Folder
from tests.helpers.tiny import in_memory


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of five images in three formats, and of files to be ignored."""
    root = tmp_path / "tree"
    for seed, name in enumerate(["cat_10.png", "cat_2.PNG", "kittens/b.jpeg", "kittens/deep/a.webp", "cat_1.jpg"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(20 + seed, 30, seed)).save(path)
    for name in [".hidden.png", ".thumbs/a.png", "__MACOSX/cat_1.png", "notes.txt", "kittens/._b.jpeg"]:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no image")
    return root


NAMES = ["cat_1.jpg", "cat_2.PNG", "cat_10.png", "kittens/b.jpeg", "kittens/deep/a.webp"]


def pack_zip(tree: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(tree.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(tree))


def pack_tar(tree: Path, path: Path) -> None:
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        archive.add(tree, ".")


@pytest.mark.parametrize(
    ("file_name", "pack"),
    [("a.zip", pack_zip), ("a.tar", pack_tar), ("a.tar.gz", pack_tar), ("a.TGZ", pack_tar)],
)
def test_archive_gives_what_the_folder_gives(tree: Path, file_name: str, pack: Callable[[Path, Path], None]) -> None:
    archive = tree.parent / file_name
    pack(tree, archive)
    expected = Folder(tree).load(16)
    found = Folder(archive).load(16)
    assert expected.names == found.names == NAMES
    assert torch.equal(expected[:], found[:])
    assert expected.digest == found.digest
    assert Folder(archive).description == f"images of {file_name}"


def test_subfolder_takes_only_what_lies_below_it_wherever_it_is(tree: Path) -> None:
    assert Folder(tree, "kittens").load(16).names == ["b.jpeg", "deep/a.webp"]
    assert Folder(tree.parent, "tree/kittens").load(16).names == ["b.jpeg", "deep/a.webp"]
    assert Folder(tree, "deep").load(16).names == ["a.webp"]
    with pytest.raises(UserError, match="no images below a folder dogs"):
        Folder(tree, "dogs").load(16)


def test_digest_sees_names_pixels_and_shape(tree: Path) -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    changed = images.clone()
    changed[1, 2, 3, 3] = 1
    others = [
        in_memory(images, ["a", "c"]),
        in_memory(changed, ["a", "b"]),
        in_memory(images.reshape(2, 3, 2, 8), ["a", "b"]),
    ]
    assert len({in_memory(images, ["a", "b"]).digest, *(other.digest for other in others)}) == 4


def broken(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("make", [broken, lambda content: b"GIF89a not really", lambda content: b""])
def test_unreadable_image_is_named(tree: Path, make: Callable[[bytes], bytes]) -> None:
    path = tree / "kittens" / "b.jpeg"
    path.write_bytes(make(path.read_bytes()))
    with pytest.raises(UserError, match=r"can't use 1 of 5 images of tree.*kittens/b\.jpeg \(.*; fix or remove them"):
        Folder(tree).load(16)
    for seed in range(15):
        Image.fromarray(noise(20, 30, seed)).save(tree / f"more_{seed}.png")
    with pytest.raises(UserError, match=r"can't read kittens/b\.jpeg of tree: .*; fix or remove it \(.*manifest\.json"):
        Folder(tree, on_error="stop").load(16)


def test_roots_that_are_no_images_say_what_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no image")
    (tmp_path / "cats.rar").write_bytes(b"Rar!")
    for name, reason in (
        ("none", "No such file"),
        ("cats.rar", "could not be opened"),
        ("empty", "is an empty folder"),
        ("text", "holds no images"),
    ):
        with pytest.raises(UserError, match=f"{name}.*{reason}.*data=drawn_cats"):
            Folder(tmp_path / name).load(16)


@pytest.mark.parametrize("file_name", ["a.zip", "a.tar", "a.tar.gz"])
def test_broken_archive_is_named(tree: Path, file_name: str) -> None:
    archive = tree.parent / file_name
    (pack_zip if file_name == "a.zip" else pack_tar)(tree, archive)
    archive.write_bytes(broken(archive.read_bytes()))
    with pytest.raises(UserError, match=f"can't read .*{file_name}: .*data=drawn_cats"):
        Folder(archive).load(16)


def test_paths_that_leave_an_archive_write_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "inner" / "a.tar"
    archive.parent.mkdir()
    content = io.BytesIO()
    Image.fromarray(noise(8, 8)).save(content, "PNG")
    with tarfile.open(archive, "w") as tar:
        for name in ["../evil.png", f"{tmp_path}/absolute.png", "good.png"]:
            info = tarfile.TarInfo(name)
            info.size = content.tell()
            tar.addfile(info, io.BytesIO(content.getvalue()))
    assert len(Folder(archive).load(16)) == 3
    assert list(tmp_path.iterdir()) == [archive.parent]
    assert list(archive.parent.iterdir()) == [archive]


def test_real_cat_faces_are_read_as_pillow_reads_them(shared_cats: Path) -> None:
    images = Folder(shared_cats / "cat-faces-64.zip").load(64)
    assert images[:].shape == (8500, 3, 64, 64)
    assert images[:].dtype == torch.uint8
    numbers = [int(name.removeprefix("cat_").removesuffix(".webp")) for name in images.names]
    assert numbers == sorted(numbers)
    with zipfile.ZipFile(shared_cats / "cat-faces-64.zip") as archive:
        for index in (0, 4000, 8499):
            expected = np.asarray(Image.open(archive.open(images.names[index])).convert("RGB"))
            assert np.array_equal(images[:][index].permute(1, 2, 0), expected)


def test_drawn_cats_depend_on_seed_and_index_only() -> None:
    many, few = DrawnCats(150, seed=1), DrawnCats(100, seed=1)
    images = many.load(32)
    assert images[:].shape == (150, 3, 32, 32)
    assert images.names[149] == "drawn_00149"
    assert torch.equal(images[:100], few.load(32)[:])
    assert images.factors is not None
    assert torch.equal(images.factors, torch.from_numpy(draw_factors(np.arange(150), seed=1)))
    assert not torch.equal(few.load(32)[:], DrawnCats(100, seed=2).load(32)[:])
    assert many.description == "150 drawn cats (embedded; data=cat_faces has real ones)"


def test_no_drawn_cats_is_refused() -> None:
    with pytest.raises(UserError, match="can't use 0 of 0 images of drawn-cats"):
        DrawnCats(0, seed=0).load(32)


def test_nothing_is_shown_where_there_is_no_terminal(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Folder(tree).load(16)
    assert capfd.readouterr() == ("", "")
