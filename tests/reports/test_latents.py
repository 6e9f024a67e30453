"""src.latents writes what it promises, for models that encode and for those that don't."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from src.core.errors import UserError
from src.latents import latents
from src.models.checkpoint.config import portable_config
from src.models.checkpoint.format import to_bytes
from tests.helpers.commands import TINY_NETWORKS, config_of
from tests.helpers.tiny import checkpoint_of

DATA = ["data.image_size=32", "data.num_images=64"]
ALWAYS = {"samples_linear.png", "samples_spherical.png", "traversals.png"}
OF_IMAGES = {"images_linear.png", "images_spherical.png", "map.png"}


def untrained(model: str, folder: Path, config: dict[str, Any] | None = None) -> Path:
    """A checkpoint as src.train writes it, of random weights."""
    from hydra.utils import instantiate

    config = config or config_of(f"model={model}", *TINY_NETWORKS[model], *DATA)
    torch.manual_seed(0)
    made = instantiate(config["model"], _convert_="all")
    path = folder / "model.safetensors"
    path.write_bytes(to_bytes(checkpoint_of(made, portable_config(config))))
    return path


def draw(checkpoint: Path, *overrides: str) -> Path:
    options = [f"checkpoint={checkpoint}", "paths=3", "steps=5", "frames=2", "num_directions=4", "device=cpu"]
    latents(**config_of(*options, "num_images=40", *overrides, name="latents"))
    return checkpoint.parent / "latents"


def report(folder: Path) -> Any:
    return json.loads((folder / "latents.json").read_text())


@pytest.mark.parametrize("model", ["autoencoder", "vae"])
def test_models_that_encode_show_real_images_too(model: str, tmp_path: Path) -> None:
    folder = draw(untrained(model, tmp_path))
    written = {path.name for path in folder.iterdir()}
    assert written == ALWAYS | OF_IMAGES | {"samples.webp", "images.webp", "latents.json"}
    assert report(folder)["files"].keys() == written - {"latents.json"}
    assert report(folder)["num_latents"] == 40
    # Three rows of five decoded images of 32 pixels between two real ones, and 2 pixels around each.
    assert Image.open(folder / "images_linear.png").size == (7 * 34 + 2, 3 * 34 + 2)
    assert Image.open(folder / "samples_linear.png").size == (5 * 34 + 2, 3 * 34 + 2)
    assert Image.open(folder / "traversals.png").size == (5 * 34 + 2, 4 * 34 + 2)
    activity = report(folder)["directions"]["activity"]
    assert activity == sorted(activity, reverse=True)


def test_gan_shows_its_samples_without_reading_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.data.datamodule.ImageDataModule.setup", lambda *_: pytest.fail("it read the data"))
    folder = draw(untrained("gan", tmp_path))
    assert {path.name for path in folder.iterdir()} == ALWAYS | {"samples.webp", "latents.json"}


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_animations_move_and_loop_for_ever(kind: str, tmp_path: Path) -> None:
    folder = draw(untrained("gan", tmp_path), f"animation={kind}")
    with Image.open(folder / f"samples.{kind}") as animation:
        assert animation.n_frames == 4 * 2  # type: ignore[attr-defined]
        assert animation.info["loop"] == 0


def test_without_the_training_images_the_rest_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "cats" / "0.png"
    image.parent.mkdir()
    Image.new("RGB", (32, 32)).save(image)
    images = ["data=folder", f"data.root={image.parent}", "data.image_size=32"]
    checkpoint = untrained("vae", tmp_path, config_of("model=vae", *TINY_NETWORKS["vae"], *images))
    image.unlink()
    folder = draw(checkpoint)
    assert {path.name for path in folder.iterdir()} == ALWAYS | {"samples.webp", "latents.json"}
    assert "no map and no interpolations between real images, which are not here" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"data\.root"):
        draw(checkpoint, f"data.root={tmp_path}/nowhere")


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    checkpoint = untrained("vae", tmp_path)
    folder = draw(checkpoint)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before == {path.name: path.read_bytes() for path in draw(checkpoint).iterdir()}
    other = draw(checkpoint, "seed=1")
    assert (other / "samples_linear.png").read_bytes() != before["samples_linear.png"]


def test_other_images_few_as_they_are_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    for index in range(3):
        Image.new("RGB", (32, 32), (80 * index, 40, 90)).save(tmp_path / "cats" / f"{index}.png")
    folder = draw(untrained("vae", tmp_path), f"data.root={tmp_path}/cats", f"output={tmp_path}/out")
    assert not folder.exists()
    assert report(tmp_path / "out")["num_latents"] == 3
