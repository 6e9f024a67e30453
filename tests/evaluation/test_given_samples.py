"""Folders of images are evaluated like samples of a model; reconstructions are of held-out images."""

import json
import math
from pathlib import Path

import pytest
import torch

from src.core.errors import UserError
from src.core.images import to_pillow
from src.data.datamodule import ImageDataModule
from src.data.folder import Folder
from src.evaluate import evaluate
from src.evaluation.evaluator import Evaluator
from src.evaluation.from_checkpoint import LoadedRun
from src.evaluation.given_samples import GivenSamples
from src.evaluation.representation import representation
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import FrechetDistance
from src.models.checkpoint.loading import build
from src.reports.evaluation import write_evaluation
from tests.helpers.commands import config_of
from tests.helpers.feature_networks import PatchMeans, smooth_images
from tests.helpers.tiny import tiny_autoencoder, tiny_data, tiny_vae


def folder_of(path: Path, count: int, seed: int, size: int = 64) -> str:
    path.mkdir()
    for index, image in enumerate(smooth_images(count, seed, size)):
        to_pillow(image).save(path / f"{index:03d}.png")
    return str(path)


def test_a_folder_is_evaluated_as_the_samples_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, real = folder_of(tmp_path / "given", 30, 1, size=128), folder_of(tmp_path / "real", 40, 2)
    options = [f"samples={given}", "data=folder", f"data.root={real}", f"data.cache_dir={tmp_path}/cache"]
    config = config_of(*options, "metrics=none", name="evaluate")
    data = config["data"]
    model, images = GivenSamples(given, 20, data, "cpu"), build(data | {"val_fraction": 0.0}, "data", ImageDataModule)
    assert len(model.images) == 15  # every second
    assert len(images.images("train")) == 40
    assert "15 images of given, of which 15 were scaled to 64x64" in capsys.readouterr().out
    metrics = FeatureMetrics(PatchMeans(), {"fd": FrechetDistance()})
    evaluator = Evaluator(model, images, [metrics], len(model.images), cache_dir=str(tmp_path))
    write_evaluation(
        evaluator,
        tmp_path / "out",
        {"samples": given},
        neighbors=2,
        importance_samples=1,
        max_bound_images=1,
        fresh_cats=1,
    )
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = metrics.compare(metrics.extract([images.images("train")[:]]), metrics.extract([model.images[:]]))
    assert written["fd"] == pytest.approx(expected["fd"], rel=1e-4)
    assert written["samples"] == given
    assert {"fd_floor", "copied_patches", "nearest_patches"} <= written.keys()
    assert (written["num_images"], written["num_reference_images"]) == (15, 40)
    assert "15 samples" in capsys.readouterr().out
    evaluate(**config)
    assert json.loads((tmp_path / "given-metrics" / "metrics.json").read_text())["num_images"] == 30


def test_a_root_is_a_folder_of_images_for_a_run_on_a_public_set_too(tmp_path: Path) -> None:
    root, own = folder_of(tmp_path / "cats", 30, 1), config_of("data=cat_faces", "data.limit_images=7")["data"]
    loaded = LoadedRun({"config": {"data": own}}, tmp_path / "a.safetensors", tmp_path, torch.device("cpu"))
    data = loaded.data({"root": root, "cache_dir": str(tmp_path / "cache")})
    assert isinstance(data.source, Folder)
    assert len(data.images("train")) == 30
    # A limit that is typed holds.
    other = config_of("data=folder", f"data.root={root}", "data.limit_images=5")["data"]
    assert loaded.data(other | {"cache_dir": str(tmp_path / "cache")}).limit_images == 5


def test_samples_need_images_to_compare_them_with_and_no_checkpoint(tmp_path: Path) -> None:
    given = folder_of(tmp_path / "given", 3, 1)
    with pytest.raises(UserError, match=r"data=folder data\.root=PATH"):
        evaluate(**config_of(f"samples={given}", name="evaluate"))
    with pytest.raises(UserError, match=r"neighbors=4 .* metrics=none"):
        evaluate(**config_of(f"samples={given}", "neighbors=4", "metrics=none", name="evaluate"))
    with pytest.raises(UserError, match="either checkpoint=RUN, or samples=FOLDER"):
        evaluate(**config_of(name="evaluate"))


def test_floor_of_few_held_out_images_follows_from_the_many_training_images(tmp_path: Path) -> None:
    data, metrics = tiny_data(60, val_fraction=0.2), FeatureMetrics(PatchMeans(), {"fd": FrechetDistance()})
    evaluator = Evaluator(tiny_autoencoder().eval(), data, [metrics], 40, reference="val", cache_dir=str(tmp_path))
    values, train = evaluator.sample_metrics(), metrics.extract([data.images("train")[:]])
    assert (len(data.images("val")), len(train)) == (12, 48)
    assert values["fd_floor"] == pytest.approx(train.distance_of_halves * 48 / 4 * (1 / 12 + 1 / 40), rel=1e-4)


def test_losses_and_reconstructions_are_of_held_out_images_and_perfect_ones_have_no_distance(tmp_path: Path) -> None:
    model, data = tiny_autoencoder().eval(), tiny_data(40, val_fraction=0.25)
    metrics = FeatureMetrics(PatchMeans(), {"fd": FrechetDistance()})
    evaluator = Evaluator(model, data, [metrics], num_images=40, cache_dir=str(tmp_path))
    (of, values), *_ = representation(evaluator, model, 5, 1, 0)
    assert of == "10 held-out images"
    model.reconstruct = lambda images: images  # type: ignore[method-assign]
    (_, perfect), *_ = representation(evaluator, model, 5, 1, 0)
    assert perfect["fd_reconstruction"] == pytest.approx(0, abs=1e-9)
    assert perfect["ssim"] == pytest.approx(1) != values["ssim"]
    # Without held-out images the training images are taken, and it is said.
    data = tiny_data(40, val_fraction=0.0)
    (of, _), *_ = representation(Evaluator(model, data, (), num_images=40), model, 5, 1, 0)
    assert of == "40 training images"


def test_a_single_held_out_image_has_reconstructions_and_no_variance() -> None:
    model, data = tiny_vae().eval(), tiny_data(20, val_fraction=0.05)
    (of, values), (_, bounds), (_, latents), _ = representation(Evaluator(model, data, num_images=20), model, 5, 1, 0)
    assert (of, latents) == ("1 held-out images", {})
    assert math.isfinite(values["psnr"] + bounds["bound/elbo_bits_per_dim"])
