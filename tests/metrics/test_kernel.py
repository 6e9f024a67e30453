import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from src.core.errors import UserError
from src.metrics.frechet import Features
from src.metrics.kernel import KernelDistance
from tests.helpers.feature_networks import PatchMeans, gaussian_sample, smooth_images


def test_of_all_features_it_matches_its_definition() -> None:
    real, generated = gaussian_sample(5, 3, 1), gaussian_sample(5, 3, 2)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a @ b) / 3 + 1) ** 3

    within_real = sum(kernel(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j) / 20
    within_generated = sum(kernel(a, b) for i, a in enumerate(generated) for j, b in enumerate(generated) if i != j)
    across = sum(kernel(a, b) for a in real for b in generated) / 25
    expected = within_real + within_generated / 20 - 2 * across
    assert KernelDistance()(Features(real), Features(generated)) == {"": pytest.approx(expected, rel=1e-9), "_std": 0}


def test_matches_torchmetrics_kid_where_a_subset_is_everything() -> None:
    real, generated = smooth_images(30, 1), smooth_images(30, 2) // 2  # far apart: theirs is computed in float32
    theirs = KernelInceptionDistance(PatchMeans(), subsets=3, subset_size=30)
    theirs.update(real, real=True)
    theirs.update(generated, real=False)
    features = PatchMeans()
    ours = KernelDistance(subset_size=1000)(Features(features(real)), Features(features(generated)))
    assert ours[""] == pytest.approx(theirs.compute()[0].item(), rel=1e-5)
    assert ours["_std"] == 0


def test_mean_over_subsets_is_near_the_whole() -> None:
    real, generated = gaussian_sample(400, 4, 1), gaussian_sample(400, 4, 1) * 1.2
    values = KernelDistance(subsets=200, subset_size=100)(Features(real), Features(generated))
    error = values["_std"] / 200**0.5
    assert values["_std"] > 0
    assert values[""] == pytest.approx(KernelDistance()(Features(real), Features(generated))[""], abs=5 * error)


def test_seed_decides_the_subsets() -> None:
    real, generated = Features(gaussian_sample(50, 4, 1)), Features(gaussian_sample(50, 4, 2))
    first, again, other = (KernelDistance(subsets=2, subset_size=10, seed=seed)(real, generated) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_of_many_features_every_kth_is_compared() -> None:
    real, generated = gaussian_sample(50, 4, 1), gaussian_sample(30, 4, 2)
    thinned = KernelDistance()(Features(real[::3]), Features(generated[::2]))
    assert KernelDistance(max_samples=20)(Features(real), Features(generated)) == thinned


def test_one_image_is_too_few() -> None:
    with pytest.raises(UserError, match="at least two images"):
        KernelDistance()(Features(torch.ones(1, 4)), Features(torch.ones(9, 4)))
