"""Diversity of samples whose covariance is known, and of images that collapse."""

import pytest
import torch

from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import Diversity, Features
from tests.helpers.feature_networks import PatchMeans, gaussian_sample, smooth_images


def with_variances(*variances: float) -> Features:
    """Features whose covariance is diagonal, of these variances up to a factor."""
    axes = torch.tensor(variances, dtype=torch.float64).sqrt().diag()
    return Features(torch.cat([axes, -axes]))


def test_diversity_is_the_ratio_of_root_mean_squared_distances_of_pairs() -> None:
    real, generated = gaussian_sample(400, 5, seed=0), gaussian_sample(300, 5, seed=1) * torch.arange(5)
    pairs = [torch.pdist(sample).square().mean().sqrt() for sample in (generated, real)]
    assert Diversity()(Features(real), Features(generated))[""] == pytest.approx(float(pairs[0] / pairs[1]))


def test_dimension_counts_equal_directions() -> None:
    plane = with_variances(1.0, 1.0)
    assert Diversity()(plane, with_variances(3.0, 3.0, 3.0, 0.0))["_dimension"] == pytest.approx(3 / 2)
    assert Diversity()(plane, with_variances(1.0, 1e-9))["_dimension"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("kinds", [2, 3, 5])
def test_dimension_of_few_images_is_at_most_one_less(kinds: int) -> None:
    images = torch.randn(kinds, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    line = Features(gaussian_sample(400, 1, seed=0))  # of one dimension
    assert Diversity()(line, Features(images[torch.arange(1_000) % kinds]))["_dimension"] <= kinds - 1 + 1e-9


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
