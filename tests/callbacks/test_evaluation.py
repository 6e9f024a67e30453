from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from src.callbacks.evaluation import Evaluation
from src.callbacks.image_grids import ImageGrids
from src.callbacks.periodic import StepSeeds
from src.core.images import from_uint8
from src.evaluation.evaluator import Evaluator
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import FrechetDistance
from src.metrics.kernel import KernelDistance
from src.models.base import GenerativeModel
from src.models.gan import GAN
from src.networks.dcgan import DCGANGenerator
from tests.helpers.feature_networks import PatchMeans
from tests.helpers.tiny import (
    LATENT_DIM,
    ScriptedModel,
    as_process,
    identical,
    snapshot,
    tiny_autoencoder,
    tiny_data,
    tiny_gan,
    tiny_vae,
    train,
)


def patches() -> dict[str, FeatureMetrics]:
    return {"patches": FeatureMetrics(PatchMeans(), {"fd_patches": FrechetDistance(), "kd_patches": KernelDistance()})}


def evaluation(tmp_path: Path, num_images: int = 20) -> Evaluation:
    return Evaluation(8, patches(), num_images, cache_dir=str(tmp_path / "cache"))


def gan_with_batch_normalization() -> GAN:
    """Build a GAN that decodes differently in training mode."""
    torch.manual_seed(0)
    return tiny_gan(generator=DCGANGenerator(32, LATENT_DIM, width=8, max_width=16, normalization="batch"))


@pytest.mark.parametrize("build", [tiny_vae, tiny_gan, gan_with_batch_normalization])
def test_evaluated_training_gives_bit_identical_weights(build: Callable[[], GenerativeModel], tmp_path: Path) -> None:
    track, alone = build(), build()
    observers = [ImageGrids(folder=str(tmp_path), every_images=4, num_images=4), evaluation(tmp_path)]
    train(track, tiny_data(), 20, [StepSeeds(0), *observers])
    train(alone, tiny_data(), 20, [StepSeeds(0)])
    # But for the mixture, which only evaluations fit.
    assert identical(track, snapshot(alone) | {k: v for k, v in snapshot(track).items() if "mixture." in k})


def test_distances_are_those_of_the_samples_of_the_seed(tmp_path: Path) -> None:
    model, data = tiny_gan(), tiny_data()
    trainer = train(model, data, 8, [evaluation(tmp_path)])
    (metrics,) = patches().values()
    samples = model.eval().sample_uint8(20, seed=0)
    expected = metrics.compare(metrics.extract([data.images("train")[:]]), metrics.extract(samples))
    found = {name: trainer.callback_metrics[name].item() for name in expected}
    assert found == pytest.approx(expected, rel=1e-4)


def test_held_out_losses_are_means_over_all_held_out_images(tmp_path: Path) -> None:
    """An autoencoder's losses draw no noise."""
    model, data = tiny_autoencoder(), tiny_data(40, val_fraction=0.2)
    trainer = train(model, data, 8, [evaluation(tmp_path)])
    with torch.no_grad():
        expected = model.eval().losses(from_uint8(data.images("val")[:]))["loss"].mean()
    torch.testing.assert_close(trainer.callback_metrics["val/loss"], expected)


def test_without_held_out_images_there_are_no_losses(tmp_path: Path) -> None:
    trainer = train(tiny_gan(), tiny_data(val_fraction=0.0), 8, [evaluation(tmp_path)])
    assert not any(name.startswith("val/") for name in trainer.callback_metrics)


class Decoded(ScriptedModel):
    """A model that remembers the latents it has decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.latents: list[Tensor] = []

    def decode(self, latents: Tensor) -> Tensor:
        self.latents.append(latents)
        return super().decode(latents)


def latents_of_rank(tmp_path: Path, rank: int, world_size: int) -> Tensor:
    model, data, (metrics,) = Decoded(), as_process(tiny_data(), rank, world_size), patches().values()
    Evaluator(model, data, [metrics], num_images=11, cache_dir=str(tmp_path)).sample_metrics()
    latents = torch.cat(model.latents)
    return latents[latents.any(dim=1)]  # what fills a batch up is zero


def test_two_ranks_evaluate_different_samples(tmp_path: Path) -> None:
    alone, (first, second) = latents_of_rank(tmp_path, 0, 1), (latents_of_rank(tmp_path, rank, 2) for rank in range(2))
    assert (len(alone), len(first), len(second)) == (11, 6, 5)
    assert torch.equal(first, alone[:6])
    assert len(torch.cat([first, second]).unique(dim=0)) == 11
