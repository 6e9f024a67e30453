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
OUTPUTS = torch.randn(5, 3, 4, 4, dtype=torch.float64)
ERROR = IMAGES - OUTPUTS.tanh()
ALL_LEVELS = from_uint8(torch.arange(256, dtype=torch.uint8)).double()
LIKELIHOODS: list[Likelihood] = [
    Gaussian(Optimal()),
    Gaussian(Fixed(0.09)),
    Laplace(Optimal()),
    Bernoulli(),
    DiscretizedLogistic(Learned(0.1)),
]


def normal(variance: Tensor) -> Normal:
    return Normal(OUTPUTS.tanh(), variance.sqrt())


def laplace(scale: Tensor) -> TorchLaplace:
    return TorchLaplace(OUTPUTS.tanh(), scale)


def logistic(location: Tensor, scale: float) -> Distribution:
    base = Uniform(torch.zeros((), dtype=location.dtype), torch.ones((), dtype=location.dtype))
    return TransformedDistribution(base, [SigmoidTransform().inv, AffineTransform(location, scale)])


def log_prob(distribution: Distribution, images: Tensor = IMAGES) -> Tensor:
    return distribution.log_prob(images).sum(dim=(1, 2, 3))


@pytest.mark.parametrize(
    ("likelihood", "distribution"),
    [
        (Gaussian(Optimal()), normal(ERROR.square().mean())),
        (Gaussian(Fixed(0.09)), Normal(OUTPUTS.tanh(), 0.3)),
        (Gaussian(Learned(0.04)), Normal(OUTPUTS.tanh(), 0.2)),
        (Laplace(Optimal()), laplace(ERROR.abs().mean())),
        (Laplace(Fixed(0.3)), TorchLaplace(OUTPUTS.tanh(), 0.3)),
        (Laplace(Learned(0.2)), TorchLaplace(OUTPUTS.tanh(), 0.2)),
    ],
)
def test_log_prob_matches_torch_distributions(likelihood: Likelihood, distribution: Distribution) -> None:
    torch.testing.assert_close(likelihood.log_prob(IMAGES, OUTPUTS), log_prob(distribution), rtol=1e-6, atol=0)


def test_bernoulli_matches_torch_distributions_on_gray_values() -> None:
    theirs = TorchBernoulli(logits=OUTPUTS, validate_args=False)
    torch.testing.assert_close(Bernoulli().log_prob(IMAGES, OUTPUTS), log_prob(theirs, (IMAGES + 1) / 2))


@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 30.0])
@pytest.mark.parametrize("output", [-3.0, 0.1, 9.0])
def test_discretized_logistic_sums_to_one_over_the_levels(scale: float, output: float) -> None:
    outputs = torch.full((256, 1, 1, 1), output, dtype=torch.float64)
    nats = DiscretizedLogistic(Fixed(scale)).log_prob(ALL_LEVELS.view(256, 1, 1, 1), outputs)
    assert nats.exp().sum().item() == pytest.approx(1, abs=1e-6)
    assert (nats <= 0).all()


@pytest.mark.parametrize("scale", [0.02, 0.3])
def test_discretized_logistic_is_the_difference_of_the_cumulative_distribution(scale: float) -> None:
    levels, outputs = ALL_LEVELS[1:-1].view(-1, 1, 1, 1), torch.full((254, 1, 1, 1), 0.3, dtype=torch.float64)
    theirs = logistic(outputs.tanh(), scale)
    expected = theirs.cdf(levels + 1 / 255) - theirs.cdf(levels - 1 / 255)
    nats = DiscretizedLogistic(Fixed(scale)).log_prob(levels, outputs)
    torch.testing.assert_close(nats.exp(), expected.flatten(), rtol=1e-5, atol=1e-12)


def test_discretized_logistic_of_no_knowledge_is_eight_bits() -> None:
    """A wide one gives each inner level the same probability; the two ends are open and take the rest."""
    likelihood = DiscretizedLogistic(Fixed(0.55))
    images = torch.randint(1, 255, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    nats = -likelihood.log_prob(images, torch.zeros(1, 3, 64, 64))
    bits = nats_to_bits_per_dimension(nats, 3 * 64 * 64, likelihood.log_levels_per_unit)
    assert bits.item() == pytest.approx(8, abs=0.5)


def test_discretized_logistic_is_finite_far_off() -> None:
    likelihood = DiscretizedLogistic(Learned(1e-3))
    outputs = torch.full((1, 1, 1, 1), 20.0, requires_grad=True)
    nats = likelihood.log_prob(torch.full((1, 1, 1, 1), -1.0), outputs)
    nats.sum().backward()
    assert nats.isfinite().all()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.99, 1.01, 1.1, 2.0])
def test_every_other_shared_variance_or_scale_is_worse(factor: float) -> None:
    variance, scale = ERROR.square().mean(), ERROR.abs().mean()
    assert Gaussian(Optimal()).log_prob(IMAGES, OUTPUTS).sum() > log_prob(normal(factor * variance)).sum()
    assert Laplace(Optimal()).log_prob(IMAGES, OUTPUTS).sum() > log_prob(laplace(factor * scale)).sum()


def test_gradient_through_the_optimal_variance_and_scale_is_the_same() -> None:
    outputs = OUTPUTS.clone().requires_grad_()
    error = IMAGES - outputs.tanh()
    by_hand = {
        Gaussian(Optimal()): Normal(outputs.tanh(), error.square().mean().sqrt()),
        Laplace(Optimal()): TorchLaplace(outputs.tanh(), error.abs().mean()),
    }
    for likelihood, distribution in by_hand.items():
        (through,) = torch.autograd.grad(distribution.log_prob(IMAGES).sum(), outputs, retain_graph=True)
        (detached,) = torch.autograd.grad(likelihood.log_prob(IMAGES, outputs).sum(), outputs)
        torch.testing.assert_close(detached, through)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_mean_is_a_image(likelihood: Likelihood) -> None:
    images = likelihood.mean(torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4]))
    assert images[0] == -1
    assert images[2] == 0
    assert images[4] == 1
    assert (images.diff() > 0).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_perfect_reconstruction_stays_finite(likelihood: Likelihood) -> None:
    outputs = OUTPUTS.clone().requires_grad_()
    likelihood.log_prob(likelihood.mean(OUTPUTS), outputs).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_bernoulli_mean_is_its_expected_gray_value() -> None:
    torch.testing.assert_close((Bernoulli().mean(OUTPUTS) + 1) / 2, TorchBernoulli(logits=OUTPUTS).mean)


@pytest.mark.parametrize("dispersion", [Optimal(), Fixed(0.2), Learned(0.2)], ids=str)
def test_held_out_images_are_judged_one_by_one(dispersion: Dispersion) -> None:
    likelihood = Gaussian(dispersion)
    likelihood.log_prob(IMAGES, OUTPUTS)
    likelihood.eval()
    alone = torch.cat([likelihood.log_prob(IMAGES[n : n + 1], OUTPUTS[n : n + 1]) for n in range(5)])
    torch.testing.assert_close(alone, likelihood.log_prob(IMAGES, OUTPUTS))


def test_optimal_dispersion_averages_all_batches_until_its_memory_is_full() -> None:
    optimal = Optimal(halflife_images=1_000.0)
    for value in (1.0, 2.0, 6.0):
        assert optimal(torch.full((10, 3, 4, 4), value)).item() == value
    assert optimal.eval()(torch.zeros(1)).item() == pytest.approx(3.0)


def test_optimal_dispersion_forgets_by_images_seen_not_by_batches() -> None:
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
        (-likelihood.log_prob(IMAGES, OUTPUTS).mean()).backward()
        optimizer.step()
    (log_variance,) = likelihood.parameters()
    assert log_variance.item() == pytest.approx(math.log(ERROR.square().mean().item()), abs=0.01)
