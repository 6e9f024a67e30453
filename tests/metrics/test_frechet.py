import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from src.core.errors import UserError
from src.metrics.frechet import FeatureMoments, frechet_distance
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
    features = (gaussian_sample(200, 10, 1) + offset).float()
    moments = FeatureMoments(10)
    for batch in features.split([1, 99, 0, 100]):
        moments.update(batch)
    mean, covariance = moments.compute().split([1, 10])
    exact = features.double().numpy()
    np.testing.assert_allclose(mean[0].numpy(), exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance.numpy(), np.cov(exact, rowvar=False), rtol=1e-7, atol=1e-7)


def test_moments_ignore_order_and_batches() -> None:
    features = gaussian_sample(64, 8, 1).float()
    whole, pieces = FeatureMoments(8), FeatureMoments(8)
    whole.update(features)
    for batch in features.flip(0).split(5):
        pieces.update(batch)
    torch.testing.assert_close(whole.compute(), pieces.compute(), rtol=1e-10, atol=1e-12)


def test_one_image_has_no_covariance() -> None:
    moments = FeatureMoments(4)
    moments.update(torch.ones(1, 4))
    with pytest.raises(UserError, match="at least two images"):
        moments.compute()
