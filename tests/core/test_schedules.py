"""Schedules at points with known values."""

import pytest

from src.core.schedules import Cosine, Cyclical, Linear, as_schedule


def test_a_number_is_a_schedule() -> None:
    assert as_schedule(0.5)(0) == as_schedule(0.5)(10**9) == 0.5
    assert as_schedule(lambda images_seen: images_seen / 2)(7) == 3.5


@pytest.mark.parametrize(("images", "value"), [(0, 1.0), (100, 1.0), (150, 2.0), (200, 3.0), (10**9, 3.0)])
def test_linear_waits_then_rises_then_stays(images: int, value: float) -> None:
    assert Linear(1.0, 3.0, over_images=100, start_images=100)(images) == pytest.approx(value)


@pytest.mark.parametrize(("images", "value"), [(0, 2.0), (50, 1 + 0.5**0.5), (100, 1.0), (200, 0.0), (300, 0.0)])
def test_cosine_falls_along_half_a_period(images: int, value: float) -> None:
    assert Cosine(2.0, 0.0, over_images=200)(images) == pytest.approx(value)


@pytest.mark.parametrize(("images", "value"), [(0, 0.0), (25, 0.5), (50, 1.0), (99, 1.0), (100, 0.0), (1025, 0.5)])
def test_cyclical_rises_and_stays_in_every_period(images: int, value: float) -> None:
    assert Cyclical(0.0, 1.0, period_images=100, rising=0.5)(images) == pytest.approx(value)
