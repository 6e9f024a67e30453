"""What the codes of pictures tell of a latent space."""

import torch
from torch import Tensor

ACTIVE = 0.01


def active_units(means: Tensor) -> int:
    """Dimensions whose posterior mean varies over the pictures, by a variance above 0.01: (N, D) -> count.

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
