"""Nearest neighbors against scikit-learn's."""

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from src.metrics.neighbors import nearest_neighbors
from tests.helpers.feature_networks import gaussian_sample


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
