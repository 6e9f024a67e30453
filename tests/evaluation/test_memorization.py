"""A model that copies training images has other metrics than one that has learned their distribution."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from src.data.datamodule import ImageDataModule
from src.evaluation.evaluator import Evaluator
from src.evaluation.memorization import NEIGHBORS, memorization, nearest_neighbors
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import Diversity, FrechetDistance
from tests.helpers.feature_networks import PatchMeans, gaussian_sample, smooth_images
from tests.helpers.tiny import InMemory, ScriptedModel

# 150 training images: so few, in 12 dimensions, that they are not the distribution.
IMAGES = smooth_images(300, seed=0, size=32)


def data_of(images: Tensor = IMAGES, val_fraction: float = 0.5) -> ImageDataModule:
    data = ImageDataModule(InMemory(images), image_size=32, val_fraction=val_fraction)
    data.setup()
    return data


class Draws(ScriptedModel):
    """A model whose samples are given."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images

    def sample_uint8(self, num_images: int, seed: int, batch_size: int, *args: object) -> Iterator[Tensor]:
        yield from self.images[:num_images].split(batch_size)


def evaluated(images: Tensor, data: ImageDataModule, rows: int = 2) -> tuple[dict[str, float], Tensor]:
    metrics = FeatureMetrics(PatchMeans(), {"fd": FrechetDistance(), "diversity": Diversity()})
    evaluator = Evaluator(Draws(images), data, [metrics], num_images=500, batch_size=16)
    values, grid, distances = memorization(evaluator, metrics, rows)
    assert len(grid) == len(distances) * (distances.shape[1] + 2)
    assert torch.equal(distances, distances.sort(dim=1).values)
    return values, grid


@pytest.mark.parametrize("mirrored", [False, True])
def test_copies_show_in_the_neighbors_and_in_the_distances(mirrored: bool) -> None:
    data = data_of()
    train = data.images("train")[:]
    values, grid = evaluated(train.flip(-1) if mirrored else train, data)
    assert values["copied_patches"] == 1
    assert values["nearest_patches"] < 1e-5 < values["nearest_patches_val"]
    if not mirrored:
        assert values["fd_train"] == pytest.approx(0, abs=1e-6)
    assert values["fd_val"] > 1.3 * values["fd_train"]
    columns = grid.unflatten(0, (2, NEIGHBORS + 2))
    assert torch.equal(columns[:, 2], train[:2])


def test_a_model_of_the_distribution_is_as_far_from_both() -> None:
    values, _ = evaluated(smooth_images(150, seed=5, size=32), data_of())
    assert values["copied_patches"] < 0.08
    assert values["nearest_patches"] == pytest.approx(values["nearest_patches_val"], rel=0.1)
    assert values["fd_train"] == pytest.approx(values["fd_val"], rel=0.5)
    assert values["diversity_train"] == pytest.approx(1, abs=0.1)


def test_distances_are_to_equally_many_training_and_held_out_images() -> None:
    """With a tenth held out, a tenth of the training images is used: both distances are equally higher."""
    data = data_of(val_fraction=0.1)
    values, _ = evaluated(smooth_images(150, seed=5, size=32), data)
    metrics = FeatureMetrics(PatchMeans(), {"fd": FrechetDistance()})
    positions = torch.linspace(0, 269, 30).round().long()
    sampled = metrics.summarize([smooth_images(150, seed=5, size=32)])
    for name, images in {"fd_train": data.images("train")[positions], "fd_val": data.val[:]}.items():
        assert values[name] == pytest.approx(metrics.compare(metrics.summarize([images]), sampled)["fd"], rel=1e-4)


def test_without_held_out_images_the_neighbors_are_shown_all_the_same() -> None:
    data = data_of(IMAGES[:5], val_fraction=0.0)
    values, grid = evaluated(IMAGES[:3], data, rows=9)
    assert values == {"nearest_patches": pytest.approx(0, abs=1e-5)}
    assert len(grid) == 3 * (2 + 5)  # fewer images than columns


def test_neighbors_are_those_of_scikit_learn_in_whatever_chunks() -> None:
    queries, candidates = gaussian_sample(20, 6, seed=0), gaussian_sample(150, 6, seed=1)
    distances, positions = NearestNeighbors(n_neighbors=4).fit(candidates.numpy()).kneighbors(queries.numpy())
    for size in (3, 64, 150):
        ours = nearest_neighbors(queries[None], candidates.split(size), 4)
        assert np.array_equal(ours[1].numpy(), positions)
        assert np.allclose(ours[0].numpy(), distances)


def test_of_several_versions_the_nearest_counts() -> None:
    queries, candidates = gaussian_sample(10, 4, seed=0), gaussian_sample(50, 4, seed=1)
    both, _ = nearest_neighbors(torch.stack([queries, -queries]), [candidates], 1)
    one, other = (nearest_neighbors(version[None], [candidates], 1)[0] for version in (queries, -queries))
    assert torch.equal(both, torch.minimum(one, other))


def test_a_copy_is_at_distance_zero_and_few_candidates_are_all() -> None:
    features = torch.rand(5, 1280, dtype=torch.float64)
    distances, positions = nearest_neighbors(features[None], features.split(2), 7)
    assert distances.shape == (5, 5)
    assert float(distances[:, 0].max()) < 1e-5
    assert positions[:, 0].tolist() == [0, 1, 2, 3, 4]
