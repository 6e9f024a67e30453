"""The page from models that have learned nothing: all is inside, and it says what was measured."""

import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.datamodule import ImageDataModule
from src.evaluation.from_checkpoint import LoadedRun
from src.models.base import GenerativeModel
from src.reports.story.page import render
from tests.helpers.feature_networks import PatchMeans
from tests.helpers.tiny import tiny_autoencoder, tiny_data, tiny_gan, tiny_vae

CURVES = "images_seen,train/discriminator_loss,train/generator_loss,train/discriminator_auroc\n"
VOID = {"meta", "img", "br", "source", "mspace"}


class Reader(HTMLParser):
    """Checks that what is opened is closed, and gathers what a page loads, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "srcset", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += " ".join(data.split()) + " "


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("story")
    models: dict[str, GenerativeModel] = {
        "autoencoder": tiny_autoencoder(),
        "vae": tiny_vae(),
        "gan": tiny_gan(),
        "vae_beta_1": tiny_vae(),
    }
    parts = {"beta": 4.0, "adversarial_loss": {"_target_": "src.objectives.adversarial.RelativisticPairing"}}
    runs = {}
    for name, model in models.items():
        run = folder / name
        run.mkdir()
        (run / "metrics.csv").write_text(CURVES + "100,0.7,0.7,0.6\n200,0.6,0.8,0.7\n")
        (run / "summary.json").write_text('{"wall_time_seconds": 60.0}')
        (run / "command.txt").write_text(f"python -m src.train model={name}\n")
        config = {"model": parts | ({"beta": 1.0} if name == "vae_beta_1" else {}), "data": {"image_size": 32}}
        path = run / "checkpoints" / "last.safetensors"
        runs[name] = LoadedRun({"config": config}, path, run, torch.device("cpu"))
        vars(runs[name])["model"] = model.eval()
    (folder / "gan" / "images").mkdir()
    for thousands in range(0, 130, 10):
        grid = Image.new("RGB", (8 * 34 + 2, 8 * 34 + 2), (2 * thousands, 0, 0))
        grid.save(folder / "gan" / "images" / f"samples_{1000 * thousands:09d}.png")
    data: ImageDataModule = tiny_data(60, val_fraction=0.4)
    return render(runs, data, PatchMeans(), num_images=20, seed=0)


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_page_needs_nothing_but_itself(page: str, reader: Reader) -> None:
    assert reader.open == []
    assert len(reader.loaded) > 15
    assert all(source.startswith("data:image/") for source in reader.loaded)
    assert not re.search(r"https?://|url\(|<script", page)


def test_every_figure_is_drawn_for_light_and_dark_screens(page: str) -> None:
    assert page.count('media="(prefers-color-scheme: dark)"') == 4
    assert page.count('media="(prefers-reduced-motion: reduce)"') == 3


def test_images_have_descriptions(page: str) -> None:
    assert len(re.findall(r"<img [^>]*alt=\"[^\"]+\"", page)) == page.count("<img ")


def test_text_says_what_was_measured(reader: Reader) -> None:
    assert "36 to train on; 24 held out" in reader.text
    assert "β = 4" in re.sub(r"\s+", " ", reader.text)
    assert "python -m src.train model=gan" in reader.text
    assert "12 images of each kind" in reader.text  # every second one, as 24 are more than 20
    assert "4.0 minutes in all" in reader.text


def test_beta_is_shown_from_the_smallest_to_the_largest(page: str) -> None:
    row = page.partition("What does <i>β</i> do?")[2].partition("</figure>")[0]
    assert re.findall(r"<h3 class=\"vae\"><i>β</i> = (\S+)</h3>", row) == ["1", "4"]
    assert row.count("dB PSNR") == 2


def test_gan_grows_from_the_same_noise_at_six_times_ever_farther_apart(page: str) -> None:
    row = page.partition('class="trio six"')[2].partition("</figure>")[0]
    assert re.findall("<p>(.*)</p>", row) == ["untrained", "10,000", "20,000", "30,000", "60,000", "120,000"]
    images = [Image.open(BytesIO(b64decode(content))) for content in re.findall('base64,([^"]+)', row)]
    assert {image.size for image in images} == {(3 * 34 + 2, 4 * 34 + 2)}
    reds = [int(np.asarray(image.convert("RGB"))[50, 50, 0]) for image in images]
    assert all(abs(red - shown) < 6 for red, shown in zip(reds, [0, 20, 40, 60, 120, 240], strict=True))


def test_no_macro_is_left_over(page: str, reader: Reader) -> None:
    assert "{{" not in page
    assert "{%" not in page
    assert "None" not in reader.text
