"""The measurements of a model on cases whose answer is known."""

import pytest
import torch

from src.evaluation.evaluator import Evaluator
from src.reports.story.measure import FeatureDistance, measure
from tests.helpers.feature_networks import PatchMeans, smooth_images
from tests.helpers.tiny import LATENT_DIM, random_images, tiny_autoencoder, tiny_data, tiny_gan, tiny_vae


def feature_distance(count: int = 30) -> FeatureDistance:
    images = smooth_images(count, seed=0, size=32)
    return FeatureDistance(PatchMeans(), images)


def test_training_images_are_at_no_distance_and_shifted_ones_at_their_shift() -> None:
    training = smooth_images(30, seed=0, size=32).clamp(40, 200)
    distance = FeatureDistance(PatchMeans(), training)
    assert distance.measure(training).distances.max() < 1e-3
    assert distance.measure(training).frechet == pytest.approx(0, abs=1e-6)
    brighter = distance.measure(training + 1)  # a gray level up: twelve features by 1/255
    assert brighter.median == pytest.approx(12**0.5 / 255, rel=1e-3)
    assert brighter.frechet == pytest.approx(12 / 255**2, rel=1e-3)


def test_fraction_beyond_counts_what_is_farther_than_most_of_the_others() -> None:
    distance = feature_distance()
    real = distance.measure(smooth_images(40, seed=1, size=32))
    assert real.fraction_beyond(real) == pytest.approx(0.05)
    assert distance.measure(torch.zeros(3, 3, 32, 32, dtype=torch.uint8)).fraction_beyond(real) == 1


def test_models_are_measured_by_what_they_offer() -> None:
    distance, data = feature_distance(), tiny_data(16, val_fraction=0.375)
    images, held_out = data.images("train")[:], data.images("val")[:]
    for model in (tiny_autoencoder(), tiny_vae(), tiny_gan()):
        result = measure(Evaluator(model.eval(), data), images, held_out, distance)
        assert result.samples.images.shape == (6, 3, 32, 32)
        assert len(result.samples.distances) == 6
        assert (result.latents is None) == (type(model).__name__ == "GAN")
        if result.latents is not None and result.reconstructions and result.mixture_samples:
            assert result.latents.shape == (10, LATENT_DIM)
            error = (result.reconstructions.images.double() - held_out.double()).square().mean(dim=(1, 2, 3))
            assert result.metrics["psnr"] == pytest.approx(
                (20 * torch.tensor(255.0).log10() - 10 * error.log10()).mean()
            )
            assert result.mixture_samples.images.shape == (6, 3, 32, 32)
            assert not torch.equal(result.mixture_samples.images, result.samples.images)
            assert ("kl_nats" in result.metrics) == (type(model).__name__ == "VAE")


def test_aggregate_posterior_has_the_noise_of_the_posteriors() -> None:
    vae, images = tiny_vae(), random_images(1).repeat(2000, 1, 1, 1)
    with torch.no_grad():
        vae.head.bias[LATENT_DIM:] = 2.0  # log-variances of nearly 2
    result = measure(Evaluator(vae.eval(), tiny_data()), images, images[:2], feature_distance())
    assert result.latents is not None
    _, log_variance = vae.posterior(images[:1] / 127.5 - 1)
    torch.testing.assert_close(result.latents.var(dim=0), log_variance[0].exp().detach(), rtol=0.15, atol=0)
