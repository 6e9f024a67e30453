import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Distribution,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
)
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Laplace as TorchLaplace

from src.core.images import from_uint8
from src.objectives.kl import nats_to_bits_per_dimension
from src.objectives.likelihood import (
    Bernoulli,
    DiscretizedLogistic,
    Dispersion,
    Fixed,
    Gaussian,
    Laplace,
    Learned,
    Likelihood,
    Optimal,
)

torch.manual_seed(0)
IMAGES = torch.rand(5, 3, 4, 4, dtype=torch.float64) * 2 - 1
LOGITS = torch.randn(5, 3, 4, 4, dtype=torch.float64)
ERROR = IMAGES - LOGITS.tanh()
ALL_LEVELS = from_uint8(torch.arange(256, dtype=torch.uint8)).double()
LIKELIHOODS: list[Likelihood] = [
    Gaussian(Optimal()),
    Gaussian(Fixed(0.09)),
    Laplace(Optimal()),
    Bernoulli(),
    DiscretizedLogistic(Learned(0.1)),
]


def normal(variance: Tensor) -> Normal:
    return Normal(LOGITS.tanh(), variance.sqrt())


def laplace(scale: Tensor) -> TorchLaplace:
    return TorchLaplace(LOGITS.tanh(), scale)


def logistic(location: Tensor, scale: float) -> Distribution:
    base = Uniform(torch.zeros((), dtype=location.dtype), torch.ones((), dtype=location.dtype))
    return TransformedDistribution(base, [SigmoidTransform().inv, AffineTransform(location, scale)])


def log_prob(distribution: Distribution, images: Tensor = IMAGES) -> Tensor:
    return distribution.log_prob(images).sum(dim=(1, 2, 3))


@pytest.mark.parametrize(
    ("likelihood", "distribution"),
    [
        (Gaussian(Optimal()), normal(ERROR.square().mean())),
        (Gaussian(Fixed(0.09)), Normal(LOGITS.tanh(), 0.3)),
        (Gaussian(Learned(0.04)), Normal(LOGITS.tanh(), 0.2)),
        (Laplace(Optimal()), laplace(ERROR.abs().mean())),
        (Laplace(Fixed(0.3)), TorchLaplace(LOGITS.tanh(), 0.3)),
        (Laplace(Learned(0.2)), TorchLaplace(LOGITS.tanh(), 0.2)),
    ],
)
def test_log_prob_matches_torch_distributions(likelihood: Likelihood, distribution: Distribution) -> None:
    torch.testing.assert_close(likelihood.log_prob(IMAGES, LOGITS), log_prob(distribution), rtol=1e-6, atol=0)


def test_bernoulli_matches_torch_distributions_on_gray_values() -> None:
    theirs = TorchBernoulli(logits=LOGITS, validate_args=False)
    torch.testing.assert_close(Bernoulli().log_prob(IMAGES, LOGITS), log_prob(theirs, (IMAGES + 1) / 2))


@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 30.0])
@pytest.mark.parametrize("logit", [-3.0, 0.1, 9.0])
def test_discretized_logistic_sums_to_one_over_the_levels(scale: float, logit: float) -> None:
    logits = torch.full((256, 1, 1, 1), logit, dtype=torch.float64)
    nats = DiscretizedLogistic(Fixed(scale)).log_prob(ALL_LEVELS.view(256, 1, 1, 1), logits)
    assert nats.exp().sum().item() == pytest.approx(1, abs=1e-6)
    assert (nats <= 0).all()


@pytest.mark.parametrize("scale", [0.02, 0.3])
def test_discretized_logistic_is_the_difference_of_the_cumulative_distribution(scale: float) -> None:
    levels, logits = ALL_LEVELS[1:-1].view(-1, 1, 1, 1), torch.full((254, 1, 1, 1), 0.3, dtype=torch.float64)
    theirs = logistic(logits.tanh(), scale)
    expected = theirs.cdf(levels + 1 / 255) - theirs.cdf(levels - 1 / 255)
    nats = DiscretizedLogistic(Fixed(scale)).log_prob(levels, logits)
    torch.testing.assert_close(nats.exp(), expected.flatten(), rtol=1e-5, atol=1e-12)


def test_wide_discretized_logistic_is_eight_bits() -> None:
    """Each inner level has the same probability; the two open ends have the rest."""
    likelihood = DiscretizedLogistic(Fixed(0.55))
    images = torch.randint(1, 255, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    nats = -likelihood.log_prob(images, torch.zeros(1, 3, 64, 64))
    bits = nats_to_bits_per_dimension(nats, 3 * 64 * 64, likelihood.log_levels_per_unit)
    assert bits.item() == pytest.approx(8, abs=0.5)


def test_discretized_logistic_is_finite_far_from_the_mean() -> None:
    likelihood = DiscretizedLogistic(Learned(1e-3))
    logits = torch.full((1, 1, 1, 1), 20.0, requires_grad=True)
    nats = likelihood.log_prob(torch.full((1, 1, 1, 1), -1.0), logits)
    nats.sum().backward()
    assert nats.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.99, 1.01, 1.1, 2.0])
def test_every_other_shared_variance_or_scale_is_worse(factor: float) -> None:
    variance, scale = ERROR.square().mean(), ERROR.abs().mean()
    assert Gaussian(Optimal()).log_prob(IMAGES, LOGITS).sum() > log_prob(normal(factor * variance)).sum()
    assert Laplace(Optimal()).log_prob(IMAGES, LOGITS).sum() > log_prob(laplace(factor * scale)).sum()


def test_gradient_through_the_optimal_variance_and_scale_is_the_same() -> None:
    logits = LOGITS.clone().requires_grad_()
    error = IMAGES - logits.tanh()
    by_hand = {
        Gaussian(Optimal()): Normal(logits.tanh(), error.square().mean().sqrt()),
        Laplace(Optimal()): TorchLaplace(logits.tanh(), error.abs().mean()),
    }
    for likelihood, distribution in by_hand.items():
        (through,) = torch.autograd.grad(distribution.log_prob(IMAGES).sum(), logits, retain_graph=True)
        (detached,) = torch.autograd.grad(likelihood.log_prob(IMAGES, logits).sum(), logits)
        torch.testing.assert_close(detached, through)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_mean_is_an_image(likelihood: Likelihood) -> None:
    images = likelihood.mean(torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4]))
    assert images[0] == -1
    assert images[2] == 0
    assert images[4] == 1
    assert (images.diff() > 0).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_perfect_reconstruction_stays_finite(likelihood: Likelihood) -> None:
    logits = LOGITS.clone().requires_grad_()
    likelihood.log_prob(likelihood.mean(LOGITS), logits).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_bernoulli_mean_is_its_expected_gray_value() -> None:
    torch.testing.assert_close((Bernoulli().mean(LOGITS) + 1) / 2, TorchBernoulli(logits=LOGITS).mean)


@pytest.mark.parametrize("dispersion", [Optimal(), Fixed(0.2), Learned(0.2)], ids=str)
def test_likelihood_of_held_out_images_does_not_depend_on_their_batch(dispersion: Dispersion) -> None:
    likelihood = Gaussian(dispersion)
    likelihood.log_prob(IMAGES, LOGITS)
    likelihood.eval()
    alone = torch.cat([likelihood.log_prob(IMAGES[n : n + 1], LOGITS[n : n + 1]) for n in range(5)])
    torch.testing.assert_close(alone, likelihood.log_prob(IMAGES, LOGITS))


def test_optimal_dispersion_first_averages_all_batches() -> None:
    optimal = Optimal(halflife_images=1_000.0)
    for value in (1.0, 2.0, 6.0):
        assert optimal(torch.full((10, 3, 4, 4), value)).item() == value
    assert optimal.eval()(torch.zeros(1)).item() == pytest.approx(3.0)


def test_half_life_of_the_optimal_dispersion_counts_images_not_batches() -> None:
    for batch in (5, 50):
        optimal = Optimal(halflife_images=100.0)
        for value, num_images in ((1.0, 2_000), (0.0, 100)):
            for _ in range(num_images // batch):
                optimal(torch.full((batch, 1, 1, 1), value))
        assert optimal.eval()(torch.zeros(1)).item() == pytest.approx(0.5, rel=0.01)


def test_learned_dispersion_finds_the_optimum() -> None:
    likelihood = Gaussian(Learned(1.0))
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (-likelihood.log_prob(IMAGES, LOGITS).mean()).backward()
        optimizer.step()
    (log_variance,) = likelihood.parameters()
    assert log_variance.item() == pytest.approx(math.log(ERROR.square().mean().item()), abs=0.01)
