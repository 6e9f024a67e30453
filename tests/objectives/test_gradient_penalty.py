from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from src.objectives.gradient_penalty import (
    GradientPenalty,
    Interpolated,
    ZeroCentered,
    one_centered_gradient_penalty,
    zero_centered_gradient_penalty,
)

Critic = Callable[[Tensor], Tensor]


def images(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()


REAL, FAKE = images(1), images(2)


def linear_critic() -> tuple[Critic, Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(12, dtype=torch.float64, requires_grad=True)
    return lambda images: images.flatten(1) @ weight, weight


def smooth_critic() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()


def total(penalty: GradientPenalty, critic: Critic) -> Tensor:
    return penalty.total(penalty(critic, REAL, FAKE, critic(REAL), critic(FAKE)))


def test_penalty_of_linear_critic_is_its_squared_weight_norm() -> None:
    critic, weight = linear_critic()
    penalty = zero_centered_gradient_penalty(REAL, critic(REAL))
    torch.testing.assert_close(penalty, weight.square().sum().expand(5))


def test_one_centered_penalty_of_linear_critic_is_its_norms_squared_distance_from_one() -> None:
    critic, weight = linear_critic()
    penalty = one_centered_gradient_penalty(REAL, critic(REAL))
    torch.testing.assert_close(penalty, (weight.norm() - 1).square().expand(5))


def test_one_centered_penalty_of_flat_critic_has_a_gradient() -> None:
    """The norm has no gradient at zero."""
    weight = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    one_centered_gradient_penalty(REAL, REAL.flatten(1) @ weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_penalty_of_each_image_is_its_own() -> None:
    critic = smooth_critic()
    together = zero_centered_gradient_penalty(REAL, critic(REAL))
    for index in range(5):
        one = REAL[index : index + 1].detach().requires_grad_()
        torch.testing.assert_close(zero_centered_gradient_penalty(one, critic(one)), together[index : index + 1])


def test_r1_and_r2_weigh_half_their_gamma() -> None:
    critic = smooth_critic()
    r1 = zero_centered_gradient_penalty(REAL, critic(REAL)).mean()
    r2 = zero_centered_gradient_penalty(FAKE, critic(FAKE)).mean()
    torch.testing.assert_close(total(ZeroCentered(3.0, 0.5), critic), 1.5 * r1 + 0.25 * r2)
    torch.testing.assert_close(total(ZeroCentered(3.0, 0.0), critic), 1.5 * r1)
    torch.testing.assert_close(total(ZeroCentered(0.0, 0.5), critic), 0.25 * r2)


@pytest.mark.parametrize("interval", [2, 5])
def test_lazy_penalty_has_the_same_average(interval: int) -> None:
    critic = smooth_critic()
    every_step, lazy = ZeroCentered(1.0, 2.0), ZeroCentered(1.0, 2.0, interval)
    totals = [total(lazy, critic) if lazy.should_run(step) else torch.zeros(()) for step in range(3 * interval)]
    torch.testing.assert_close(torch.stack(totals).mean(), total(every_step, critic))
    assert sum(lazy.should_run(step) for step in range(3 * interval)) == 3


def test_penalty_without_weight_never_runs() -> None:
    assert not any(ZeroCentered(0.0, 0.0).should_run(step) for step in range(5))
    assert not any(Interpolated(0.0).should_run(step) for step in range(5))


def test_interpolated_penalty_of_linear_critic_is_known() -> None:
    critic, weight = linear_critic()
    torch.testing.assert_close(total(Interpolated(10.0), critic), 10 * (weight.norm() - 1).square())


def test_interpolated_penalty_is_taken_between_the_images() -> None:
    seen: list[Tensor] = []

    def critic(images: Tensor) -> Tensor:
        seen.append(images)
        return images.square().sum(dim=(1, 2, 3))

    Interpolated(10.0)(critic, REAL, FAKE, torch.zeros(5), torch.zeros(5))
    share = (seen[0] - FAKE) / (REAL - FAKE)
    torch.testing.assert_close(share, share[:, :1, :1, :1].expand_as(share))
    assert ((share > 0) & (share < 1)).all()
    assert len(set(share[:, 0, 0, 0].tolist())) == 5


@pytest.mark.parametrize("penalty", [ZeroCentered(1.0, 2.0), Interpolated(10.0)], ids=lambda p: type(p).__name__)
def test_gradient_of_penalty_matches_finite_differences(penalty: GradientPenalty) -> None:
    critic = smooth_critic()
    weights = parameters_to_vector(critic.parameters()).detach()

    def at(moved: Tensor) -> Tensor:
        vector_to_parameters(moved, critic.parameters())
        torch.manual_seed(0)
        return total(penalty, critic)

    gradient = torch.autograd.grad(at(weights), list(critic.parameters()), allow_unused=True, materialize_grads=True)
    steps = 1e-5 * torch.eye(len(weights), dtype=torch.float64)
    differences = torch.stack([(at(weights + step) - at(weights - step)).detach() / 2e-5 for step in steps])
    assert differences.abs().max() > 0.01
    torch.testing.assert_close(parameters_to_vector(gradient), differences, atol=1e-8, rtol=1e-6)
