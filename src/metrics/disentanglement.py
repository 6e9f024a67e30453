"""Whether single dimensions of a code stand for single factors of variation, which must be known.

Both measures take codes (N, D) and factors (N, F), in any units; a factor of at most 20 different values is discrete.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

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
    informativeness: the share of the factor's variance that is explained on a tenth of the pictures that the forest has
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
