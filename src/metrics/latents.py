"""Metrics of a latent space, from the latents of images: active units, distance from the prior, disentanglement."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import mutual_info_score
from torch import Tensor
from torchmetrics.image.kid import maximum_mean_discrepancy

BINS = 20
SMALLEST = 1e-9
Values = NDArray[np.floating]


def active_units(means: Tensor) -> int:
    """Count the dimensions whose posterior mean has a variance above 0.01 over the images: (N, D) -> count.

    Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders", section 5.2.
    """
    return int((means.var(dim=0) > 0.01).sum())


def inverse_multiquadric_mmd(latents: Tensor, prior: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy between two samples, (N, D) each -> (); may be negative.

    The sum of the kernels C / (C + |a - b|^2), C = 2 D s for the scales s = 0.1, 0.2, 0.5, 1, 2, 5, 10, which suit a
    prior of N(0, I) (Tolstikhin et al., 2018, "Wasserstein auto-encoders", section 4 and its code).
    """
    latents, prior = latents.double(), prior.double()
    scales = 2 * latents.shape[1] * torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0], dtype=torch.float64)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared_distance = torch.cdist(a, b).square()
        return torch.stack([scale / (scale + squared_distance) for scale in scales]).sum(dim=0)

    return maximum_mean_discrepancy(kernel(latents, latents), kernel(latents, prior), kernel(prior, prior))


def mutual_information_gap(latents: Values, factors: Values) -> float:
    """MIG (Chen et al., 2018, "Isolating sources of disentanglement"): 0 to 1, higher is better.

    latents: (N, D). factors: (N, F). The mean over the factors of how much more the most informative dimension knows
    of one than the second, in units of its entropy. Continuous values are cut into 20 bins of equal width (Locatello
    et al., 2019).
    """
    binned_latents = [binned(column) for column in latents.T]
    gaps = []
    for factor in factors.T:
        classes = classes_of(factor)
        states = binned(factor) if classes is None else classes
        factor_entropy = mutual_info_score(states, states)
        if factor_entropy < SMALLEST:  # a factor that never changes
            continue
        known = sorted(mutual_info_score(latent, states) for latent in binned_latents)
        gaps.append((known[-1] - (known[-2] if len(known) > 1 else 0.0)) / factor_entropy)
    return float(np.mean(gaps)) if gaps else 0.0


def dci(latents: Values, factors: Values, seed: int = 0) -> dict[str, float]:
    """Disentanglement, completeness and informativeness (Eastwood & Williams, 2018): 0 to 1, higher is better.

    latents: (N, D). factors: (N, F). A random forest predicts each factor from the latents. Disentanglement: a
    dimension matters to one factor only; completeness: a factor needs one dimension only (both one minus an entropy of
    the forests' importances); informativeness: the explained fraction of a factor's variance, or the accuracy for
    factors of few values, on a tenth of the images that the forest has not seen, never below 0.
    """
    importances, scores = [], []
    held_out = np.random.default_rng(seed).permutation(len(latents)) < max(len(latents) // 10, 1)
    options = {"n_estimators": 10, "max_depth": 12, "min_samples_leaf": 2, "random_state": seed}
    for factor in factors.T:
        classes = classes_of(factor)
        forest = RandomForestRegressor(**options) if classes is None else RandomForestClassifier(**options)
        target = factor if classes is None else classes
        forest.fit(latents[~held_out], target[~held_out])
        importances.append(forest.feature_importances_)
        scores.append(max(forest.score(latents[held_out], target[held_out]), 0.0))
    matrix = np.stack(importances, axis=1)  # (D, F)
    return {
        "dci_disentanglement": float(one_minus_entropy(matrix) @ matrix.sum(axis=1) / max(matrix.sum(), SMALLEST)),
        "dci_completeness": float(one_minus_entropy(matrix.T).mean()),
        "dci_informativeness": float(np.mean(scores)),
    }


def classes_of(factor: Values) -> NDArray[np.integer] | None:
    """Return the class of each value, (N,) -> (N,); None for more values than bins, which are no classes."""
    values, classes = np.unique(factor, return_inverse=True)
    return classes if len(values) <= BINS else None


def binned(values: Values) -> NDArray[np.integer]:
    """Return the bin of each value, 0 to 19: (N,) -> (N,)."""
    return np.digitize(values, np.histogram_bin_edges(values, BINS)[1:-1])


def one_minus_entropy(rows: Values) -> Values:
    """Return 1 - entropy / log B of each row, scaled to a sum of 1: (A, B) -> (A,); a row of zeros gives 0."""
    weights = np.where(rows.sum(axis=1, keepdims=True) > 0, rows, 1)
    return 1 - entropy(weights, axis=1) / max(np.log(rows.shape[1]), SMALLEST)
