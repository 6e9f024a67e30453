import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.core.errors import UserError
from src.data import cat_heads
from src.data.datamodule import FolderDataModule
from src.data.dataset import ImageDataset, split
from src.data.decoding import Box, Head
from src.data.folder import Folder
from src.data.head_crops import square_around
from src.reports.inspect_data.page import write_page

RED, BLUE = (200, 30, 30), (30, 30, 200)


def found_by_color(photo: Image.Image) -> list[Head]:
    """Stand in for the network: the box of everything red, then of everything blue; a guess where there is neither."""
    pixels, heads = np.asarray(photo).astype(int), []
    for color, score in ((RED, 0.9), (BLUE, 0.8)):
        rows, columns = np.nonzero(np.abs(pixels - color).sum(-1) < 90)
        if len(rows):
            box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
            heads.append(Head(box, score))
    return heads or [Head((1.0, 2.0, 9.0, 10.0), 0.25)]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One red head, a larger blue beside a red one (turned by EXIF), no head, a broken file, and other endings."""
    monkeypatch.setattr(cat_heads, "find_heads", found_by_color)
    root = tmp_path / "photos"
    root.mkdir()
    one = Image.new("RGB", (400, 300), "white")
    one.paste(RED, (50, 60, 130, 140))
    one.paste("white", (90, 60, 130, 80))  # so that no two heads look the same
    one.save(root / "one.png")
    two = Image.new("RGB", (400, 300), "white")
    two.paste(RED, (10, 10, 60, 60))
    two.paste("white", (10, 40, 40, 60))
    two.paste(BLUE, (200, 100, 320, 200))
    two.paste("white", (240, 130, 280, 170))
    exif = Image.Exif()
    exif[0x0112] = 6  # as a phone that was held upright: to be turned by 90 degrees
    two.rotate(90, expand=True).save(root / "two.jpg", exif=exif, quality=95)
    Image.new("RGB", (300, 300), "green").save(root / "none.png")
    for index in range(30):
        leaves = np.random.default_rng(index).integers((0, 160, 0), (40, 256, 40), (40, 40, 3)).astype(np.uint8)
        Image.fromarray(leaves).resize((320, 320)).save(root / f"leaves_{index}.png")
    (root / "broken.jpg").write_bytes(b"no image")
    for name in ("film.MOV", "film.mp4", "clip.mov", "LICENSE"):
        (root / name).write_bytes(b"none")
    return root


def rows_of(images: ImageDataset) -> dict[str, list[list[Any]]]:
    assert images.manifest is not None
    rows = json.loads(images.manifest.read_bytes())["heads"]
    return {name: [row for row in rows if row[0] == name] for name in {row[0] for row in rows}}


def test_largest_head_of_each_photo_is_cropped(photos: Path) -> None:
    images = Folder(photos, crop="cat").load(32)
    assert images.names == ["one.png", "two.jpg"]
    red, blue = images[:].float()
    for image, color in ((red, RED), (blue, BLUE)):
        is_head = (image - torch.tensor(color).view(3, 1, 1)).abs().sum(0) < 90
        assert is_head[4:-4, 4:-4].float().mean() > 0.7  # the head fills the crop, but for the margin
        assert not is_head[[0, -1]].any()
    left_out = dict(images.left_out)
    assert left_out["none.png"] == "no cat's head found (best score 0.25)"
    assert left_out["broken.jpg"].startswith("its content is none of")
    rows = rows_of(images)
    assert rows["one.png"] == [["one.png", 50, 60, 130, 140, 0.9, "kept", "one.png", 400, 300]]
    # Pixels of the upright photo, whatever its file holds.
    (largest, other) = sorted(rows["two.jpg"], key=lambda row: row[6] != "kept")
    assert np.abs(np.array(largest[1:5], int) - [200, 100, 320, 200]).max() <= 2
    assert largest[5:] == [0.8, "kept", "two.jpg", 400, 300]
    assert other[5:] == [0.9, "not the largest", "", 400, 300]
    assert rows["none.png"] == [["none.png", 1, 2, 9, 10, 0.25, left_out["none.png"], "", 300, 300]]


def test_all_heads_of_a_photo_stay_on_one_side_of_the_split(photos: Path) -> None:
    images = Folder(photos, crop="cat", cats="all").load(32)
    assert images.names == ["one.png", "two.jpg#1", "two.jpg#2"]
    assert images.groups[1] == images.groups[2] != images.groups[0]
    for seed in range(8):
        train, val = split(images, 0.4, seed)
        assert {"two.jpg#1", "two.jpg#2"} <= set(train.names) or {"two.jpg#1", "two.jpg#2"} <= set(val.names)
    # They are no copies of each other: both are kept by data.deduplicate.
    assert images.columns["smoothest"].tolist() == [1, 1, 1]
    assert torch.equal(Folder(photos, crop="cat", cats="all").load(32)[:], images[:])


def test_a_number_sign_in_the_name_of_a_folder_or_file_joins_nothing(photos: Path) -> None:
    (photos / "Album #1").mkdir()
    for index in range(3):
        (photos / f"leaves_{index}.png").rename(photos / "Album #1" / f"leaf#{index}.png")
    images = Folder(photos, cats="all").load(32)
    assert len(set(images.groups[:3].tolist())) == 3
    assert all(name.startswith("Album #1/leaf#") for name in images.names[:3])


def test_heads_of_one_photo_are_no_near_duplicates_on_the_page(photos: Path, tmp_path: Path) -> None:
    data = FolderDataModule(str(photos), crop="cat", cats="all", image_size=32, val_fraction=0.3)
    numbers = write_page(data, {}, tmp_path / "page")
    assert (numbers["heads kept"], numbers["distinct to the eye"], numbers["with near-duplicates"]) == (3, 3, 0)
    centers = FolderDataModule(str(photos), crop="cat", without_cat="center", image_size=32)
    (photos / "one.png").unlink()
    (photos / "two.jpg").unlink()
    numbers = write_page(centers, {}, tmp_path / "page")
    assert (numbers["images"], numbers["heads kept"]) == (31, 0)


def test_photos_without_a_cat_can_give_their_center(photos: Path) -> None:
    images = Folder(photos, crop="cat", without_cat="center").load(32)
    assert len(images) == 33
    (row,) = rows_of(images)["none.png"]
    assert row[6:8] == ["center: no cat's head found (best score 0.25)", "none.png"]


def test_a_photo_without_a_cat_is_no_damage(photos: Path) -> None:
    (photos / "broken.jpg").unlink()
    assert len(Folder(photos, on_error="stop", crop="cat").load(32)) == 2
    (photos / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"can't read broken\.jpg"):
        Folder(photos, on_error="stop", crop="cat").load(32)


def test_heads_smaller_than_an_image_are_left_out_if_enlarging_is_refused(photos: Path) -> None:
    images = Folder(photos, crop="cat", upscale="refuse").load(128)
    assert images.names == ["two.jpg"]
    assert dict(images.left_out)["one.png"] == "its square is too small: 92x92 is smaller than 128x128"


@pytest.mark.parametrize("packed", ["folder", "zip", "tar"])
def test_other_endings_are_counted_by_name(photos: Path, packed: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = photos
    if packed == "zip":
        root = photos.with_suffix(".zip")
        with zipfile.ZipFile(root, "w") as archive:
            archive.mkdir("photos")
            for file in photos.iterdir():
                archive.write(file, f"photos/{file.name}")
    if packed == "tar":
        root = photos.with_suffix(".tar")
        with tarfile.open(root, "w") as archive:
            archive.add(photos, "photos")
    data = FolderDataModule(str(root), image_size=32)
    data.setup()
    assert "data: files that are not read, by ending: 2 .mov, 1 .mp4, 1 no ending\n" in capsys.readouterr().err
    assert data.source.load(32).unread == {".mov": 2, ".mp4": 1, "no ending": 1}


def test_crops_and_centers_have_caches_of_their_own(photos: Path) -> None:
    center, heads = Folder(photos), Folder(photos, crop="cat")
    assert "cats" not in center.options(32)  # caches of other crops are not rebuilt for it
    assert set(heads.options(32)) - set(center.options(32)) == {"cats", "without_cat", "weights"}
    assert center.load(32).manifest != heads.load(32).manifest


@pytest.mark.parametrize(
    ("box", "size", "square"),
    [
        ((100, 100, 200, 180), (1000, 800), (92, 82, 207, 197)),  # 1.15 times the longer side, around the center
        ((0, 0, 100, 100), (1000, 800), (0, 0, 115, 115)),  # moved into the photo
        ((900, 700, 1000, 800), (1000, 800), (885, 685, 1000, 800)),
        ((100, 0, 900, 800), (2000, 800), (100, 0, 900, 800)),  # as large as the photo allows
        ((40, 20, 470, 490), (512, 512), (0, 0, 512, 512)),  # a face crop stays as it is
        ((4, 2, 60, 63), (64, 70), (0, 3, 64, 67)),
    ],
)
def test_square_around_a_head(box: Box, size: tuple[int, int], square: tuple[int, int, int, int]) -> None:
    assert square_around(box, size) == square
