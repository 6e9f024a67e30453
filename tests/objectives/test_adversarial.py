from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from src.objectives.adversarial import (
    AdversarialLoss,
    Hinge,
    LeastSquares,
    NonSaturating,
    Relativistic,
    RelativisticAverage,
    RelativisticAverageLeastSquares,
    RelativisticPairing,
    Wasserstein,
)

torch.manual_seed(0)
REAL, FAKE = torch.randn(9, dtype=torch.float64) * 2, torch.randn(9, dtype=torch.float64) * 2
ONE, ZERO = torch.ones(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)


def cross_entropy(logits: Tensor, is_real: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, is_real, reduction="none")


def distance(logits: Tensor, target: Tensor) -> Tensor:
    return mse_loss(logits, target, reduction="none")


def clipped(margins: Tensor) -> Tensor:
    """max(0, 1 - margin)."""
    return torch.maximum(ZERO, 1 - margins)


def average_distance(first: Tensor, second: Tensor) -> Tensor:
    return (distance(first - second.mean(), ONE) + distance(second - first.mean(), -ONE)) / 2


def average_cross_entropy(first: Tensor, second: Tensor) -> Tensor:
    return (cross_entropy(first - second.mean(), ONE) + cross_entropy(second - first.mean(), ZERO)) / 2


Formula = Callable[[Tensor, Tensor], Tensor]
# The papers' formulas for discriminator and generator.
FORMULAS: dict[AdversarialLoss, tuple[Formula, Formula]] = {
    NonSaturating(): (lambda r, f: cross_entropy(r, ONE) + cross_entropy(f, ZERO), lambda r, f: cross_entropy(f, ONE)),
    Hinge(): (lambda r, f: clipped(r) + clipped(-f), lambda r, f: -f),
    LeastSquares(): (lambda r, f: (distance(r, ONE) + distance(f, ZERO)) / 2, lambda r, f: distance(f, ONE) / 2),
    Wasserstein(): (lambda r, f: f - r, lambda r, f: -f),
    RelativisticPairing(): (lambda r, f: cross_entropy(r - f, ONE), lambda r, f: cross_entropy(f - r, ONE)),
    RelativisticAverage(): (average_cross_entropy, lambda r, f: average_cross_entropy(f, r)),
    RelativisticAverageLeastSquares(): (average_distance, lambda r, f: average_distance(f, r)),
}
LOSSES = list(FORMULAS)
RELATIVISTIC = [loss for loss in LOSSES if type(loss).__name__.startswith("Relativistic")]
AVERAGING = (RelativisticAverage, RelativisticAverageLeastSquares)


def name(loss: object) -> str:
    return type(loss).__name__


def test_every_loss_has_its_formula_here() -> None:
    assert {type(loss) for loss in LOSSES} == {*AdversarialLoss.__subclasses__(), *Relativistic.__subclasses__()} - {
        Relativistic
    }


@pytest.mark.parametrize("loss", LOSSES, ids=name)
def test_loss_is_its_papers_formula(loss: AdversarialLoss) -> None:
    discriminator, generator = FORMULAS[loss]
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), discriminator(REAL, FAKE))
    torch.testing.assert_close(loss.generator(REAL, FAKE), generator(REAL, FAKE))
    assert loss.discriminator(REAL, FAKE).shape == loss.generator(REAL, FAKE).shape == (9,)


@pytest.mark.parametrize("loss", LOSSES, ids=name)
def test_discriminator_pushes_real_logits_up_and_fake_ones_down(loss: AdversarialLoss) -> None:
    """Start from logits of zero; the order is (real, fake)."""
    real, fake = ZERO.clone().requires_grad_(), ZERO.clone().requires_grad_()
    real_gradient, fake_gradient = torch.autograd.grad(
        loss.discriminator(real, fake).sum(), (real, fake), allow_unused=True, materialize_grads=True
    )
    assert (real_gradient < 0).all()
    assert (fake_gradient > 0).all() or (isinstance(loss, LeastSquares) and not fake_gradient.any())


@pytest.mark.parametrize("loss", LOSSES, ids=name)
def test_generator_pushes_fake_logits_up(loss: AdversarialLoss) -> None:
    fake = (REAL.mean() - 1 - torch.rand(9, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss.generator(REAL, fake).sum(), fake)
    assert (gradient < 0).all()


@pytest.mark.parametrize("loss", RELATIVISTIC, ids=name)
def test_relativistic_players_mirror_each_other(loss: AdversarialLoss) -> None:
    torch.testing.assert_close(loss.generator(REAL, FAKE), loss.discriminator(FAKE, REAL))


@pytest.mark.parametrize("loss", [*RELATIVISTIC, Wasserstein()], ids=name)
def test_loss_depends_only_on_differences_of_logits(loss: AdversarialLoss) -> None:
    torch.testing.assert_close(loss.discriminator(REAL + 5, FAKE + 5), loss.discriminator(REAL, FAKE))


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if not isinstance(loss, AVERAGING)], ids=name)
def test_a_pairs_loss_does_not_depend_on_the_other_pairs(loss: AdversarialLoss) -> None:
    for player in (loss.discriminator, loss.generator):
        torch.testing.assert_close(player(REAL, FAKE)[2:5], player(REAL[2:5], FAKE[2:5]))


@pytest.mark.parametrize(
    ("loss", "real", "fake"),
    [
        (NonSaturating(), 50.0, -50.0),
        (Hinge(), 1.0, -1.0),
        (LeastSquares(), 1.0, 0.0),
        (RelativisticPairing(), 25.0, -25.0),
        (RelativisticAverage(), 25.0, -25.0),
        (RelativisticAverageLeastSquares(), 0.5, -0.5),
    ],
    ids=name,
)
def test_perfect_discriminator_has_no_loss(loss: AdversarialLoss, real: float, fake: float) -> None:
    torch.testing.assert_close(loss.discriminator(real * ONE, fake * ONE), ZERO)


def test_generator_has_no_loss_at_its_optimum() -> None:
    torch.testing.assert_close(LeastSquares().generator(ZERO, ONE), ZERO)
    torch.testing.assert_close(NonSaturating().generator(ZERO, 50 * ONE), ZERO)


@pytest.mark.parametrize("loss", LOSSES, ids=name)
def test_large_logits_stay_finite(loss: AdversarialLoss) -> None:
    for player in (loss.discriminator, loss.generator):
        assert player(torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4])).isfinite().all()
