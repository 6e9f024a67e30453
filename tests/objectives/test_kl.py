import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from src.objectives.kl import TargetKL, free_bits_kl, kl_per_dimension, nats_to_bits_per_dimension


def test_kl_matches_torch_distributions() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    kl = kl_per_dimension(mean, log_variance).sum(dim=1)
    assert kl.shape == (5,)
    torch.testing.assert_close(kl, kl_divergence(posterior, prior))


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (1.5, 0.0), (-0.7, 1.2), (0.3, -3.0)])
def test_kl_matches_numerical_integration(mean: float, log_variance: float) -> None:
    x = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    posterior, prior = Normal(mean, math.exp(log_variance / 2)), Normal(0.0, 1.0)
    integrand = posterior.log_prob(x).exp() * (posterior.log_prob(x) - prior.log_prob(x))
    kl = kl_per_dimension(torch.tensor(mean), torch.tensor(log_variance))
    assert kl.item() == pytest.approx(torch.trapezoid(integrand, x).item(), abs=1e-6)


def test_uniform_density_over_all_levels_is_eight_bits() -> None:
    """The 256 levels are 2/255 apart in [-1, 1]; with half a level at both ends they fill 512/255."""
    nats = torch.tensor([12 * math.log(512 / 255)])
    assert nats_to_bits_per_dimension(nats, 12, math.log(127.5)).item() == pytest.approx(8)


def test_uniform_density_over_the_range_of_images_is_the_bits_of_255_levels() -> None:
    """[-1, 1] has 255 widths of a level."""
    nats = torch.tensor([12 * math.log(2)])
    assert nats_to_bits_per_dimension(nats, 12, math.log(127.5)).item() == pytest.approx(math.log2(255))


def test_one_fair_coin_per_dimension_is_one_bit() -> None:
    nats = torch.tensor([12 * math.log(2), 24 * math.log(2)])
    torch.testing.assert_close(nats_to_bits_per_dimension(nats, 12, 0.0), torch.tensor([1.0, 2.0]))


def test_dimensions_below_their_free_bits_cost_the_same_and_have_no_gradient() -> None:
    kl = torch.tensor([[0.1, 3.0], [0.3, 1.0]], requires_grad=True)
    kl_term = free_bits_kl(kl, free_bits=0.5)
    torch.testing.assert_close(kl_term, torch.tensor([3.5, 1.5]))
    (gradient,) = torch.autograd.grad(kl_term.sum(), kl)
    assert torch.equal(gradient, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))


def test_free_bits_are_the_papers_maximum_of_the_batch_means() -> None:
    kl = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    expected = kl.mean(dim=0).clamp_min(0.5).sum()
    torch.testing.assert_close(free_bits_kl(kl, 0.5).mean(), expected)


def test_weight_moves_by_the_logarithm_of_the_excess_and_stays_at_the_target() -> None:
    target = TargetKL(target_nats=10.0, initial=2.0, response_images=100.0)
    target.observe(torch.full((50,), 10.0))
    assert target(0).item() == pytest.approx(2.0)
    target.observe(torch.full((50,), 20.0))
    assert target(0).item() == pytest.approx(2.0 * 2**0.5)
    target.observe(torch.zeros(50))
    assert target(0).item() == pytest.approx(2.0 * 2**0.5 * math.exp(-0.5))


def test_kl_converges_to_the_target() -> None:
    """The KL here falls with the square root of its weight."""
    target = TargetKL(target_nats=2.0, response_images=100.0)
    for _ in range(100):
        target.observe(8 / target(0).sqrt().expand(20))
    assert target(0).item() == pytest.approx(16, rel=1e-3)
