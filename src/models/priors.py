"""Priors to sample latents from: N(0, I), or a mixture of Gaussians fitted on the latents of images after training.

"Ex-post density estimation" (Ghosh et al., 2020, "From variational to deterministic autoencoders"): the latents of
real images seldom fill N(0, I), so a decoder meets samples of N(0, I) that it was never trained on.
"""

import warnings
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

Prior = Literal["normal", "mixture"]
MAX_ITERATIONS = 50
HELD_OUT = 4  # one of so many latents, at random, is held out to choose the number of components
REGULARIZATION = 1e-4  # added to the covariances' diagonals, in units of the latents' mean variance


class GaussianMixture(nn.Module):
    """A mixture of Gaussians with full covariances over latents (D,), kept in buffers and so in checkpoints.

    fitted_at: images the model had seen when the mixture was fitted; -1 if it never was.
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
        """True once the mixture was fitted."""
        return int(self.fitted_at) >= 0

    def fit(self, latents: Tensor, images_seen: int) -> None:
        """Fit the mixture on latents (N, D) by expectation maximization, on the CPU, deterministically, in seconds.

        Of all components, half, a quarter, ... as many, that number is taken that gives held-out latents the highest
        density; the weights of the others are zero. A single latent, or one that is not finite, changes nothing.
        """
        # Imported here, because sampling needs neither.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture as ScikitGaussianMixture
        from threadpoolctl import threadpool_limits

        values = latents.detach().double().cpu().numpy()
        if len(values) < 2 or not np.isfinite(values).all():
            return
        scale = values.std() + 1e-12
        values /= scale

        def mixture_of(num_components: int, latents: np.ndarray) -> ScikitGaussianMixture:
            options = {"max_iter": MAX_ITERATIONS, "reg_covar": REGULARIZATION, "random_state": 0}
            return ScikitGaussianMixture(num_components, **options).fit(latents)

        def held_out_density(num_components: int) -> float:
            return float(mixture_of(num_components, values[~is_held_out]).score(values[is_held_out]))

        is_held_out = np.random.default_rng(0).permutation(len(values)) % HELD_OUT == 0
        most = max(min(len(self.weights), (len(values) - is_held_out.sum()) // 2), 1)
        # All, half, a quarter, ... of them, the fewest first, which are taken where the density is the same.
        numbers = sorted({max(most >> halvings, 1) for halvings in range(8)})
        # One thread: sums are the same on every machine, and no thread waits for a busy core.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture = mixture_of(max(numbers, key=held_out_density) if len(numbers) > 1 else 1, values)
        for buffer, fitted in (
            (self.weights, mixture.weights_),
            (self.means, mixture.means_ * scale),
            (self.choleskies, np.linalg.cholesky(mixture.covariances_) * scale),
        ):
            buffer.zero_()
            buffer[: len(fitted)] = torch.from_numpy(fitted)
        self.fitted_at.fill_(images_seen)

    def sample(self, num_latents: int, generator: torch.Generator | None, temperature: float = 1.0) -> Tensor:
        """Return latents (num_latents, D) in float32 on the CPU, one after the other: a component, then a point.

        temperature: multiplies the standard deviations within each component.
        """
        weights, means, choleskies = (values.float().cpu() for values in (self.weights, self.means, self.choleskies))
        latents = []
        for _ in range(num_latents):
            component = int(torch.multinomial(weights, 1, generator=generator))
            noise = temperature * torch.randn(means.shape[1], generator=generator)
            latents.append(means[component] + choleskies[component] @ noise)
        return torch.stack(latents)
