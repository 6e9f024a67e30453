import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.drawn_cats.factors import draw_cats, draw_factors
from src.data.folder import Folder
from src.inspect_data import inspect_data
from src.reports.inspect_data.page import histogram, pixel_statistics
from tests.helpers.commands import config_of

VOID = {"img", "meta", "line"}


class Page(HTMLParser):
    """The text of a page, and what it would load; fails where tags are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.loaded, self.open = "", list[str](), list[str]()
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += " ".join(data.split()) + " "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty drawn cats, two brighter copies of the first, one dark image, one gray one, and one that is none."""
    root = tmp_path / "cats"
    root.mkdir()
    cats = draw_cats(draw_factors(np.arange(20), seed=0), 64).transpose(0, 2, 3, 1)
    dark, gray = np.random.default_rng(0).integers(0, 30, (2, 64, 64, 3))
    images = [*cats, cats[0] * 0.8 + 20, cats[0] * 0.9 + 10, dark, gray + 120]
    for index, image in enumerate(images):
        Image.fromarray(np.asarray(image, np.uint8)).save(root / f"<b>{index}.png")
    Image.new("RGB", (300, 200), "teal").save(root / "wide.jpg")
    (root / "broken.png").write_bytes(b"no image")
    return root


def inspected(folder: Path, *overrides: str) -> Path:
    output = folder.with_name("page")
    store = folder.with_name("store")
    given = ["data=folder", f"data.root={folder}", f"data.cache_dir={store}", f"output={output}", *overrides]
    inspect_data(**config_of(*given, name="inspect_data"))
    return output


def test_page_tells_what_is_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = inspected(folder, "data.val_fraction=0.2")
    numbers = {line[12:]: line[:10].strip() for line in capsys.readouterr().out.splitlines() if line[:10].strip()}
    for name, number in {
        "images": "25",
        "left out": "1",
        "distinct to the eye": "23",
        "with near-duplicates": "3",
        "for training": "20",
        "for validation": "5",
        "groups in both": "0",
        "too dark": "1",
        "low contrast": "3",
    }.items():
        assert numbers[name] == number, name
    page = Page(output / "index.html")
    for words in ("images of cats", "broken.png", "none of PNG", "300 x 200", "1 are not square", "<b>20"):
        assert words in page.text
    assert re.search(r"^ *val_fraction: 0\.2$", (output / "index.html").read_text(), re.MULTILINE)
    assert len(page.loaded) > 30
    assert all(link.startswith("data:image/webp;base64,") for link in page.loaded)
    assert [path.name for path in output.iterdir()] == ["index.html"]


def test_nothing_held_out_and_near_duplicates_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.reports.inspect_data.page.TOO_DARK", 0)  # no image is
    page = Page(inspected(folder, "data.val_fraction=0", "data.deduplicate=true") / "index.html")
    assert "No images are held out" in page.text
    assert "2 images are not used" in page.text


@pytest.mark.parametrize("choice", ["drawn_cats", "cat_faces", "afhq_cat", "folder"])
def test_every_data_set_can_be_inspected(choice: str, tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    root = [f"data.root={tmp_path}"] if choice == "folder" else []
    assert config_of(f"data={choice}", *root, name="inspect_data")["data"]["_target_"]


def test_mean_image_is_the_mean(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    levels = (10, 20, 60)
    for level in levels:
        Image.new("RGB", (64, 64), (level, 0, 255)).save(folder / f"{level}.png")
    images = Folder(folder).load(64, folder.with_name("store"))
    assert pixel_statistics(images)[2][:, 10, 10].tolist() == [30, 0, 255]


def test_histogram_counts_everything_once() -> None:
    values = np.array([-5, 0, 1, 9.99, 10, 50])
    bars = histogram(values, 0, 10, below=4, bins=5)
    assert [bar["count"] for bar in bars] == [3, 0, 0, 0, 3]
    assert [bar["marked"] for bar in bars] == [True, True, False, False, False]
