import torch

from src.metrics.latents import active_units, inverse_multiquadric_mmd


def test_units_that_hardly_vary_are_not_active() -> None:
    torch.manual_seed(0)
    assert active_units(torch.randn(500, 4) * torch.tensor([1.0, 0.12, 0.08, 0.0])) == 2


def test_mmd_is_the_double_sum_it_stands_for() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 3), torch.randn(5, 3) + 1

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        squared = float((x - y).double().square().sum())
        return sum(6 * s / (6 * s + squared) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))

    within_a = sum(kernel(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
    within_b = sum(kernel(b[i], b[j]) for i in range(5) for j in range(5) if i != j) / 20
    across = sum(kernel(x, y) for x in a for y in b) / 25
    expected = torch.tensor(within_a + within_b - 2 * across, dtype=torch.float64)
    torch.testing.assert_close(inverse_multiquadric_mmd(a, b), expected)


def test_mmd_of_the_prior_is_zero_and_grows_with_the_distance_from_it() -> None:
    torch.manual_seed(0)
    prior = torch.randn(1_000, 8)
    distances = [inverse_multiquadric_mmd(torch.randn(1_000, 8) + shift, prior).item() for shift in (0.0, 0.3, 1.0)]
    assert abs(distances[0]) < 0.01
    assert distances[0] < distances[1] < distances[2]
