"""Where latents to decode come from: a distribution fitted on the codes of images, after the fact.

"Ex-post density estimation" (Ghosh et al., 2020, "From variational to deterministic autoencoders"): the codes of real
images seldom fill N(0, I), so a decoder meets codes of N(0, I) that it has never seen.
"""

import warnings
from typing import Literal

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as ScikitGaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

Prior = Literal["normal", "mixture"]
MAX_ITERATIONS = 50
CODES_PER_DIMENSION = 3  # that a component needs, or there are fewer of them
REGULARIZATION = 1e-4  # added to the covariances' diagonals, in units of the codes' mean variance


class GaussianMixture(nn.Module):
    """A mixture of Gaussians of full covariance over codes (D,), kept in buffers, so in checkpoints.

    fitted_at: images the model had seen when it was fitted; below zero, it never was.
    """

    weights: Tensor
    means: Tensor
    choleskies: Tensor
    fitted_at: Tensor

    def __init__(self, num_components: int, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(num_components))
        self.register_buffer("means", torch.zeros(num_components, latent_dim))
        self.register_buffer("choleskies", torch.zeros(num_components, latent_dim, latent_dim))
        self.register_buffer("fitted_at", torch.tensor(-1))

    @property
    def is_fitted(self) -> bool:
        return int(self.fitted_at) >= 0

    def fit(self, codes: Tensor, images_seen: int) -> None:
        """By expectation maximization on the CPU, always the same for the same codes (N, D), in seconds.

        Few codes get fewer components; the weights of the others are zero. A single code, or one that is not finite,
        leaves it as it was.
        """
        values = codes.detach().double().cpu().numpy()
        if len(values) < 2 or not np.isfinite(values).all():
            return
        scale = values.std() + 1e-12
        enough = max(len(values) // (CODES_PER_DIMENSION * values.shape[1]), 1)
        mixture = ScikitGaussianMixture(
            min(len(self.weights), enough), max_iter=MAX_ITERATIONS, reg_covar=REGULARIZATION, random_state=0
        )
        # One thread: sums are then the same on every machine, and nothing waits for a core that is taken.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(values / scale)
        for buffer, fitted in (
            (self.weights, mixture.weights_),
            (self.means, mixture.means_ * scale),
            (self.choleskies, np.linalg.cholesky(mixture.covariances_) * scale),
        ):
            buffer.zero_()
            buffer[: len(fitted)] = torch.from_numpy(fitted)
        self.fitted_at.fill_(images_seen)

    def draw(self, num_codes: int, generator: torch.Generator | None) -> Tensor:
        """(num_codes, D) in float32 on the CPU, one after the other: a component first, then a point of it."""
        weights, means, choleskies = (values.float().cpu() for values in (self.weights, self.means, self.choleskies))
        codes = []
        for _ in range(num_codes):
            component = int(torch.multinomial(weights, 1, generator=generator))
            codes.append(means[component] + choleskies[component] @ torch.randn(means.shape[1], generator=generator))
        return torch.stack(codes)
