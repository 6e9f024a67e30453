"""The front for Python: opening and training runs, and images in and out."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from src.api import Images, Run, open_run, train
from src.core.errors import UserError
from tests.helpers.commands import succeeded, tiny

SMALL = ["metrics=none", "callbacks.image_grids=null"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(*tiny("vae", *SMALL, f"run_dir={tmp_path_factory.mktemp('api') / 'vae'}"))


def test_samples_are_those_of_the_command(vae: Run, tmp_path: Path) -> None:
    images = vae.sample(5, seed=3)
    succeeded("src.sample", f"checkpoint={vae.folder}", "num_images=5", "seed=3", f"output={tmp_path}/cats")
    for index, image in enumerate(images.numpy()):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "cats" / f"{index:05d}.png")), image)


def test_temperature_scales_the_latents(vae: Run) -> None:
    assert torch.equal(vae.sample(3, seed=1, temperature=1.0).pixels, vae.sample(3, seed=1).pixels)
    cold = vae.sample(3, seed=1, temperature=0.0).pixels
    assert torch.equal(cold[0], cold[1])
    latents = vae.model.sample_prior(3, torch.Generator().manual_seed(1), temperature=0.5)
    assert torch.equal(latents, 0.5 * vae.model.sample_prior(3, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_scales_the_spread_of_a_mixture(vae: Run, temperature: float) -> None:
    mixture = vae.model.mixture
    assert mixture.is_fitted  # type: ignore[union-attr]
    plain, scaled = (
        mixture.sample(4, torch.Generator().manual_seed(0), value)  # type: ignore[union-attr]
        for value in (1.0, temperature)
    )
    center = mixture.sample(4, torch.Generator().manual_seed(0), 0.0)  # type: ignore[union-attr]
    torch.testing.assert_close(scaled - center, temperature * (plain - center))


def forms(image: Image.Image, path: Path) -> list[object]:
    """Return one image in every form that encode takes."""
    image.save(path)
    array = np.asarray(image)
    return [image, path, str(path), array, torch.from_numpy(array.copy()).permute(2, 0, 1)]


def test_an_image_has_the_same_latent_in_every_form(vae: Run, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8))
    latents = [vae.encode(form) for form in forms(image, tmp_path / "cat.png")]  # type: ignore[arg-type]
    assert all(torch.equal(latent, latents[0]) for latent in latents)
    assert latents[0].shape == (1, vae.model.latent_dim)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a telephone that was held upright
    image.save(tmp_path / "turned.png", exif=exif)
    turned = vae.encode(tmp_path / "turned.png")
    assert torch.equal(vae.encode(Image.open(tmp_path / "turned.png")), turned)
    assert not torch.allclose(turned, latents[0], atol=1e-3)
    torch.testing.assert_close(vae.encode([image, image]), latents[0].repeat(2, 1))
    assert torch.equal(vae.reconstruct(image).pixels, vae.decode(latents[0]).pixels)


def test_interpolation_begins_and_ends_where_it_should(vae: Run) -> None:
    start, end = vae.model.sample_prior(2, torch.Generator().manual_seed(0))
    for path in ("linear", "spherical"):
        way = vae.interpolate(start, end, steps=5, path=path)
        assert len(way) == 5
        ends = vae.decode(torch.stack([start, end])).pixels.int()
        assert (way[[0, 4]].pixels.int() - ends).abs().max() <= 1


def test_images_show_and_save_themselves(vae: Run, tmp_path: Path) -> None:
    images = vae.sample(3)
    assert isinstance(images[0], Images)
    assert len(images[:2]) == len(images[[0, 2]]) == 2
    assert images.pil()[0].size == (32, 32)
    shown = Image.open(io.BytesIO(images._repr_png_()))
    saved = Image.open(images.save(tmp_path / "grid.png"))
    scale = shown.width // saved.width  # small images are enlarged, pixel by pixel
    assert shown.width > 300
    assert np.array_equal(np.asarray(shown)[::scale, ::scale], np.asarray(saved))
    assert Image.open(images[0].save(tmp_path / "one.png")).size == (32, 32)


def test_curves_are_against_the_images_seen(vae: Run) -> None:
    loss = vae.curves["train/loss"]
    assert loss.shape[1] == 2
    assert loss[-1, 0] == vae.model.images_seen == 256
    assert (np.diff(loss[:, 0]) > 0).all()


def test_evaluation_is_that_of_the_command(vae: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A prior that was fitted is measured as it is, for samples are drawn from that.
    monkeypatch.setattr("src.evaluation.evaluator.Evaluator.fit_prior", None)
    values = vae.evaluate("metrics=none", "num_images=20", "fresh_cats=64", f"output={tmp_path}")
    assert {"elbo_nats", "psnr", "active_units"} <= values.keys()
    assert values["images_seen"] == 256


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda run: train("model=vea"), "model=vea: there is no such choice; model is one of vae, "),
        (lambda run: train("model.beta=-1"), "model.beta=-1: not allowed here; give a number of at least 0."),
        (lambda run: train(f"run_dir={run.folder}"), "holds a run; add resume=last to go on with it"),
        (lambda run: open_run("/nowhere"), "can't read the checkpoint /nowhere: there is no such file or run folder"),
        (lambda run: run.encode("/nowhere.png"), "can't read the image /nowhere.png: "),
        (lambda run: run.encode(np.zeros((4, 4))), "is no image; give uint8"),
        (lambda run: run.interpolate(torch.zeros(6), torch.ones(6), path="up"), "path=up: give linear or spherical"),
        (lambda run: run.evaluate("num_image=3"), "num_image: there is no such option; there are num_images, "),
    ],
)
def test_mistakes_are_the_sentences_of_the_command_line(call: Callable[[Run], object], sentence: str, vae: Run) -> None:
    with pytest.raises(UserError) as refused:
        call(vae)
    assert sentence in str(refused.value)


def test_gan_has_no_encoder(tmp_path: Path) -> None:
    run = train(*tiny("gan", *SMALL, "max_images=32", f"run_dir={tmp_path}/gan"))
    assert len(run.sample(2)) == 2
    with pytest.raises(UserError, match="this model has no encoder; take an autoencoder, a VAE or a VAE-GAN"):
        run.encode(Image.new("RGB", (32, 32)))


def test_run_goes_on_from_python(vae: Run, tmp_path: Path) -> None:
    longer = train(*tiny("vae", *SMALL, "max_images=288"), f"resume={vae.folder}", f"run_dir={tmp_path}/longer")
    assert longer.model.images_seen == 288
