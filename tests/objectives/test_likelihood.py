import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, Normal
from torch.distributions import Laplace as TorchLaplace

from src.objectives.likelihood import Bernoulli, Gaussian, GaussianFixed, Laplace, Likelihood

torch.manual_seed(0)
IMAGES = torch.rand(5, 3, 4, 4, dtype=torch.float64) * 2 - 1
OUTPUTS = torch.randn(5, 3, 4, 4, dtype=torch.float64)
ERROR = IMAGES - OUTPUTS.tanh()
LIKELIHOODS: list[Likelihood] = [Gaussian(), GaussianFixed(0.3), Laplace(), Bernoulli()]


def normal(variance: Tensor) -> Normal:
    return Normal(OUTPUTS.tanh(), variance.sqrt())


def laplace(scale: Tensor) -> TorchLaplace:
    return TorchLaplace(OUTPUTS.tanh(), scale)


def log_prob(distribution: Distribution, images: Tensor = IMAGES) -> Tensor:
    return distribution.log_prob(images).sum(dim=(1, 2, 3))


@pytest.mark.parametrize(
    ("likelihood", "distribution"),
    [
        (Gaussian(), normal(ERROR.square().mean())),
        (GaussianFixed(0.3), Normal(OUTPUTS.tanh(), 0.3)),
        (Laplace(), laplace(ERROR.abs().mean())),
    ],
)
def test_log_prob_matches_torch_distributions(likelihood: Likelihood, distribution: Distribution) -> None:
    torch.testing.assert_close(likelihood.log_prob(IMAGES, OUTPUTS), log_prob(distribution))


def test_bernoulli_matches_torch_distributions_on_grey_values() -> None:
    theirs = TorchBernoulli(logits=OUTPUTS, validate_args=False)
    torch.testing.assert_close(Bernoulli().log_prob(IMAGES, OUTPUTS), log_prob(theirs, (IMAGES + 1) / 2))


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.99, 1.01, 1.1, 2.0])
def test_every_other_shared_variance_or_scale_is_worse(factor: float) -> None:
    variance, scale = ERROR.square().mean(), ERROR.abs().mean()
    assert Gaussian().log_prob(IMAGES, OUTPUTS).sum() > log_prob(normal(factor * variance)).sum()
    assert Laplace().log_prob(IMAGES, OUTPUTS).sum() > log_prob(laplace(factor * scale)).sum()


def test_gradient_through_the_optimal_variance_and_scale_is_the_same() -> None:
    outputs = OUTPUTS.clone().requires_grad_()
    error = IMAGES - outputs.tanh()
    by_hand = {
        Gaussian(): Normal(outputs.tanh(), error.square().mean().sqrt()),
        Laplace(): TorchLaplace(outputs.tanh(), error.abs().mean()),
    }
    for likelihood, distribution in by_hand.items():
        (through,) = torch.autograd.grad(distribution.log_prob(IMAGES).sum(), outputs, retain_graph=True)
        (detached,) = torch.autograd.grad(likelihood.log_prob(IMAGES, outputs).sum(), outputs)
        torch.testing.assert_close(detached, through)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_mean_is_a_picture(likelihood: Likelihood) -> None:
    pictures = likelihood.mean(torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4]))
    assert pictures[0] == -1
    assert pictures[2] == 0
    assert pictures[4] == 1
    assert (pictures.diff() > 0).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_perfect_reconstruction_stays_finite(likelihood: Likelihood) -> None:
    outputs = OUTPUTS.clone().requires_grad_()
    likelihood.log_prob(likelihood.mean(OUTPUTS), outputs).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_bernoulli_mean_is_its_expected_grey_value() -> None:
    torch.testing.assert_close((Bernoulli().mean(OUTPUTS) + 1) / 2, TorchBernoulli(logits=OUTPUTS).mean)
