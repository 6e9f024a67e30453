import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from src.core.errors import UserError
from src.metrics.frechet import Features, FrechetDistance, frechet_distance
from tests.helpers.feature_networks import gaussian_sample


def random_covariance(dimensions: int, seed: int, samples: int | None = None) -> Tensor:
    return torch.cov(gaussian_sample(samples or 3 * dimensions, dimensions, seed).T)


@pytest.mark.parametrize("dimensions", [2, 7, 64])
def test_matches_scipy_sqrtm(dimensions: int) -> None:
    covariance_a, covariance_b = random_covariance(dimensions, 1), random_covariance(dimensions, 2)
    mean_a, mean_b = gaussian_sample(2, dimensions, 3)
    root = scipy.linalg.sqrtm((covariance_a @ covariance_b).numpy()).real
    expected = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * np.trace(root)
    distance = frechet_distance(mean_a, covariance_a, mean_b, covariance_b)
    assert distance.dtype == torch.float64
    assert distance.item() == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(mean_b, covariance_b, mean_a, covariance_a).item() == pytest.approx(distance.item())


def test_of_shifted_gaussian_is_its_squared_shift() -> None:
    covariance = random_covariance(16, 1)
    shift = torch.linspace(-1, 1, 16, dtype=torch.float64)
    distance = frechet_distance(torch.zeros(16), covariance, shift, covariance)
    assert distance.item() == pytest.approx(shift.square().sum().item(), rel=1e-9)


def test_of_diagonal_covariances_is_squared_difference_of_deviations() -> None:
    a, b = torch.tensor([0.0, 1.0, 4.0, 9.0]), torch.tensor([2.0, 1.0, 0.0, 100.0])
    distance = frechet_distance(torch.zeros(4), a.diag(), torch.zeros(4), b.diag())
    assert distance.item() == pytest.approx((a.double().sqrt() - b.double().sqrt()).square().sum().item(), rel=1e-12)


@pytest.mark.parametrize("samples", [5, 50, 500])
def test_of_identical_distributions_is_zero_and_never_negative(samples: int) -> None:
    covariance = random_covariance(50, 1, samples)
    mean = torch.ones(50)
    assert 0 <= frechet_distance(mean, covariance, mean, covariance).item() < 1e-5 * covariance.trace().item()


def test_of_rank_deficient_covariances_is_that_of_the_samples() -> None:
    # tr (A^1/2 B A^1/2)^1/2 is the nuclear norm of the product of the centered samples.
    a, b = gaussian_sample(9, 200, 1), gaussian_sample(9, 200, 2) + 0.5
    centered_a, centered_b = a - a.mean(0), b - b.mean(0)
    overlap = torch.linalg.matrix_norm(centered_a @ centered_b.T, ord="nuc") / 8
    traces = (centered_a.square().sum() + centered_b.square().sum()) / 8
    expected = (a.mean(0) - b.mean(0)).square().sum() + traces - 2 * overlap
    distance = frechet_distance(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))
    assert distance.item() == pytest.approx(expected.item(), rel=1e-6)


def test_of_constant_images_is_the_squared_distance_of_their_means() -> None:
    nothing = torch.zeros(3, 3)
    assert frechet_distance(torch.zeros(3), nothing, torch.ones(3), nothing).item() == 3


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_moments_match_numpy(offset: float) -> None:
    features = Features((gaussian_sample(200, 10, 1) + offset).float())
    exact = features.values.double().numpy()
    np.testing.assert_allclose(features.mean.numpy(), exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(features.covariance.numpy(), np.cov(exact, rowvar=False), rtol=1e-12, atol=1e-12)


def test_distance_of_halves_is_that_of_every_second_image_from_the_others() -> None:
    values = gaussian_sample(101, 6, 1).float()
    even, odd = values[::2].double(), values[1::2].double()
    expected = frechet_distance(even.mean(dim=0), even.T.cov(), odd.mean(dim=0), odd.T.cov()).item()
    assert Features(values).distance_of_halves == pytest.approx(expected, rel=1e-6)


def test_moments_are_computed_once() -> None:
    real, generated = (Features(gaussian_sample(9, 4, seed).float()) for seed in (1, 2))
    first = FrechetDistance()(real, generated), real.distance_of_halves
    real.values.zero_()
    assert (FrechetDistance()(real, generated), real.distance_of_halves) == first


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(UserError, match="at least two images, not 1"):
        FrechetDistance()(Features(torch.ones(1, 4)), Features(torch.ones(9, 4)))


@pytest.mark.parametrize(("max_images", "step"), [(20, 1), (7, 3), (10, 2), (1, 20), (100, 1)])
def test_thinned_takes_every_kth_image(max_images: int, step: int) -> None:
    values = torch.arange(40.0).reshape(20, 2)
    assert torch.equal(Features(values).thinned(max_images), values[::step])
