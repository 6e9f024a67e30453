"""What the codes of images tell of a latent space."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from torch import Tensor

ACTIVE = 0.01


def active_units(means: Tensor) -> int:
    """Dimensions whose posterior mean varies over the images, by a variance above 0.01: (N, D) -> count.

    Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders", section 5.2.
    """
    return int((means.var(dim=0) > ACTIVE).sum())


def inverse_multiquadric_mmd(codes: Tensor, prior: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy between two samples, (M, D) and (N, D) -> (); may be negative.

    The sum of the kernels C / (C + |a - b|^2), C = 2 D s for the scales s = 0.1, 0.2, 0.5, 1, 2, 5, 10, which suit a
    prior of N(0, I) (Tolstikhin et al., 2018, "Wasserstein auto-encoders", section 4 and its code).
    """
    codes, prior = codes.double(), prior.double()
    scales = 2 * codes.shape[1] * torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0], dtype=torch.float64)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared_distance = torch.cdist(a, b).square()
        return torch.stack([scale / (scale + squared_distance) for scale in scales]).sum(dim=0)

    def mean_of_pairs(sample: Tensor) -> Tensor:
        values = kernel(sample, sample)
        return (values.sum() - values.trace()) / (len(sample) * (len(sample) - 1))

    return mean_of_pairs(codes) + mean_of_pairs(prior) - 2 * kernel(codes, prior).mean()


BINS = 20
SMALLEST = 1e-9
Values = NDArray[np.floating]


def mutual_information_gap(codes: Values, factors: Values) -> float:
    """MIG (Chen et al., 2018, "Isolating sources of disentanglement"): 0 to 1, higher is better.

    Of each factor: how much more the most informative dimension knows of it than the second, in units of the factor's
    entropy; then the mean over the factors. Continuous values are cut into 20 bins of equal width (Locatello et al.,
    2019).
    """
    binned_codes = [binned(column) for column in codes.T]
    gaps = []
    for factor in factors.T:
        states = binned(factor) if len(np.unique(factor)) > BINS else np.unique(factor, return_inverse=True)[1]
        entropy = mutual_information(states, states)
        if entropy < SMALLEST:  # a factor that never changes
            continue
        known = sorted(mutual_information(code, states) for code in binned_codes)
        gaps.append((known[-1] - (known[-2] if len(known) > 1 else 0.0)) / entropy)
    return float(np.mean(gaps)) if gaps else 0.0


def binned(values: Values) -> NDArray[np.integer]:
    """(N,) -> the bin of each, 0 to 19."""
    inner_edges = np.histogram_bin_edges(values, BINS)[1:-1]
    return np.digitize(values, inner_edges)


def mutual_information(a: NDArray[np.integer], b: NDArray[np.integer]) -> float:
    """In nats, of the joint frequencies of two discrete variables, (N,) each."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def dci(codes: Values, factors: Values, seed: int = 0) -> dict[str, float]:
    """Disentanglement, completeness and informativeness (Eastwood & Williams, 2018): 0 to 1, higher is better.

    A random forest predicts each factor from the codes. Disentanglement: a dimension matters to one factor only;
    completeness: a factor needs one dimension only (both one minus an entropy of the forests' importances);
    informativeness: the share of the factor's variance that is explained on a tenth of the images that the forest has
    not seen, or of its choices that are hit, never below 0.
    """
    importances, explained = [], []
    held_out = np.random.default_rng(seed).permutation(len(codes)) < len(codes) // 10
    options = {"n_estimators": 10, "max_depth": 12, "min_samples_leaf": 2, "random_state": seed}
    for factor in factors.T:
        discrete = len(np.unique(factor)) <= BINS
        forest = (RandomForestClassifier if discrete else RandomForestRegressor)(**options)
        target = np.unique(factor, return_inverse=True)[1] if discrete else factor
        forest.fit(codes[~held_out], target[~held_out])
        importances.append(forest.feature_importances_)
        explained.append(max(forest.score(codes[held_out], target[held_out]), 0.0))
    matrix = np.stack(importances, axis=1)  # (D, F)
    return {
        "dci_disentanglement": float(one_minus_entropy(matrix) @ matrix.sum(axis=1) / max(matrix.sum(), SMALLEST)),
        "dci_completeness": float(one_minus_entropy(matrix.T).mean()),
        "dci_informativeness": float(np.mean(explained)),
    }


def one_minus_entropy(rows: Values) -> Values:
    """Of each row's shares, in units of the largest entropy possible: (A, B) -> (A,); a row of zeros gives 0."""
    total = rows.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, rows / np.maximum(total, SMALLEST), 1 / rows.shape[1])
    entropy = -(shares * np.log(np.maximum(shares, SMALLEST))).sum(axis=1)
    return 1 - entropy / max(np.log(rows.shape[1]), SMALLEST)
