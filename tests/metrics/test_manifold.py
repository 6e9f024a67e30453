"""Precision, recall, density and coverage against loops over every pair, and on samples whose values are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from src.metrics.frechet import Features
from src.metrics.manifold import PrecisionRecall
from tests.helpers.feature_networks import gaussian_sample


def measured(real: Tensor, generated: Tensor, metric: PrecisionRecall | None = None) -> dict[str, float]:
    return (metric or PrecisionRecall())(Features(real), Features(generated))


def by_loops(real: Tensor, generated: Tensor, k: int, k_density: int) -> dict[str, float]:
    """Count ball by ball, as the papers' equations say."""
    real_list, generated_list = real.numpy(), generated.numpy()

    def radius(points: np.ndarray, index: int, neighbor: int) -> float:
        others = [np.linalg.norm(points[index] - other) for at, other in enumerate(points) if at != index]
        return float(sorted(others)[neighbor - 1])

    def is_in(point: np.ndarray, points: np.ndarray, neighbor: int) -> list[bool]:
        return [
            bool(np.linalg.norm(point - center) <= radius(points, at, neighbor)) for at, center in enumerate(points)
        ]

    real_balls = [is_in(point, real_list, k_density) for point in generated_list]
    return {
        "_precision": float(np.mean([any(is_in(point, real_list, k)) for point in generated_list])),
        "_recall": float(np.mean([any(is_in(point, generated_list, k)) for point in real_list])),
        "_density": float(np.sum(real_balls) / k_density / len(generated_list)),
        "_coverage": float(np.mean(np.any(real_balls, axis=0))),
    }


@pytest.mark.parametrize(("scale", "shift", "k", "k_density"), [(1.0, 0.0, 3, 5), (0.4, 0.5, 3, 5), (1.5, 1.0, 2, 1)])
def test_equals_loops_over_all_pairs(scale: float, shift: float, k: int, k_density: int) -> None:
    real, generated = gaussian_sample(30, 3, 0), scale * gaussian_sample(30, 3, 0).flip(0).roll(1, 1) + shift
    assert measured(real, generated, PrecisionRecall(k, k_density)) == pytest.approx(
        by_loops(real, generated, k, k_density)
    )


def test_the_same_features_are_precise_and_recalled_and_lie_in_every_ball_of_k_neighbors() -> None:
    features = gaussian_sample(1_200, 5, 0)
    values = measured(features, features)
    assert values == pytest.approx({"_precision": 1, "_recall": 1, "_density": 6 / 5, "_coverage": 1})


def test_samples_of_one_distribution_have_a_density_near_one() -> None:
    normal = torch.randn(3_000, 4, generator=torch.Generator().manual_seed(0))
    values = measured(normal[:1_500], normal[1_500:])
    assert values["_density"] == pytest.approx(1, abs=0.05)
    # Naeem et al. (2020), equation 10, for equally many: 1 - (N - 1) ... (N - k) / (2N - 1) ... (2N - k).
    expected = 1 - np.prod([(1_500 - i) / (3_000 - i) for i in range(1, 6)])
    assert values["_coverage"] == pytest.approx(expected, abs=0.02)


def test_a_hundred_images_repeated_have_hardly_any_recall() -> None:
    real = gaussian_sample(2_000, 8, 0)
    values = measured(real, gaussian_sample(100, 8, 0).repeat(20, 1) + 1e-3)
    other = measured(real[:1_000], real[1_000:])
    assert values["_recall"] < 0.06 < 0.6 < other["_recall"]
    assert values["_precision"] > 0.95
    assert values["_coverage"] < 0.5 < other["_coverage"]


def test_far_apart_is_nothing() -> None:
    real = gaussian_sample(40, 3, 0)
    assert set(measured(real, real + 1e4).values()) == {0}


def test_of_unequal_sides_the_larger_is_thinned_evenly() -> None:
    real, generated = gaussian_sample(90, 3, 0), gaussian_sample(30, 3, 1)
    positions = torch.linspace(0, 89, 30).round().long()
    assert measured(real, generated) == measured(real[positions], generated)


def test_of_many_features_every_kth_is_compared() -> None:
    real, generated = gaussian_sample(90, 3, 0), gaussian_sample(60, 3, 1)
    metric = PrecisionRecall(max_samples=30)
    assert measured(real, generated, metric) == measured(real[::3], generated[::2])


def test_too_few_images_have_no_neighbors_and_no_values() -> None:
    assert measured(torch.rand(5, 3), torch.rand(9, 3)) == {}
