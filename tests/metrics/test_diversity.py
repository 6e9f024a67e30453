"""Diversity of samples whose covariance is known, and of images that collapse."""

import pytest
import torch

from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import Diversity, Features, effective_dimension, spread
from tests.helpers.feature_networks import PatchMeans, gaussian_sample, smooth_images


def test_spread_is_the_root_mean_squared_distance_of_pairs() -> None:
    sample = gaussian_sample(400, 5, seed=0)
    pairs = torch.pdist(sample).square().mean().sqrt()
    assert float(spread(sample.T.cov()) * 2**0.5) == pytest.approx(float(pairs))


def test_effective_dimension_counts_equal_directions() -> None:
    assert float(effective_dimension(torch.diag(torch.tensor([3.0, 3.0, 3.0, 0.0])))) == pytest.approx(3)
    assert float(effective_dimension(torch.diag(torch.tensor([1.0, 1e-9])))) == pytest.approx(1)


@pytest.mark.parametrize("kinds", [2, 3, 5])
def test_of_few_images_it_is_at_most_one_less(kinds: int) -> None:
    images = torch.randn(kinds, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = images[torch.arange(1_000) % kinds]
    assert float(effective_dimension(drawn.T.cov())) <= kinds - 1 + 1e-9


def test_diversity_of_the_same_half_as_wide_and_all_alike() -> None:
    sample = gaussian_sample(400, 5, seed=0)
    real = Features(sample)
    assert Diversity()(real, real) == {"": pytest.approx(1), "_dimension": pytest.approx(1)}
    assert Diversity()(real, Features(7 - sample / 2)) == {"": pytest.approx(0.5), "_dimension": pytest.approx(1)}
    assert Diversity()(real, Features(torch.ones_like(sample))) == {"": 0, "_dimension": 0}


def test_few_kinds_of_images_far_from_each_other_show_in_the_dimension() -> None:
    metrics = FeatureMetrics(PatchMeans(), {"diversity": Diversity()})
    real, collapsed = smooth_images(300, seed=0), smooth_images(3, seed=1).repeat(100, 1, 1, 1)
    values = metrics.compare(metrics.extract([real]), metrics.extract([collapsed]))
    assert values["diversity_dimension"] < 0.35
    assert values["diversity"] > values["diversity_dimension"] + 0.2
