"""Constructed latents whose disentanglement is known."""

import numpy as np
import pytest

from src.metrics.latents import dci, mutual_information_gap

RNG = np.random.default_rng(0)
# Two continuous factors and one of four choices.
FACTORS = np.column_stack([RNG.uniform(-1, 1, (4_000, 2)), RNG.integers(0, 4, 4_000)])
NOISE = RNG.uniform(-1, 1, (4_000, 2))
ROTATION = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2)


def test_a_dimension_for_each_factor_is_perfect() -> None:
    latents = np.column_stack([3 * FACTORS[:, 2] - 1, NOISE[:, 0], -FACTORS[:, 0], 0.1 * FACTORS[:, 1]])
    assert mutual_information_gap(latents, FACTORS) > 0.97
    values = dci(latents, FACTORS)
    assert values["dci_disentanglement"] > 0.95
    assert values["dci_completeness"] > 0.95
    assert values["dci_informativeness"] > 0.98


def test_a_factor_known_to_two_dimensions_alike_has_no_gap_but_is_disentangled() -> None:
    latents = np.column_stack([FACTORS[:, 0], 2 * FACTORS[:, 0], FACTORS[:, 1]])
    assert mutual_information_gap(latents, FACTORS[:, :1]) == pytest.approx(0, abs=1e-9)
    values = dci(latents, FACTORS[:, :2])
    assert values["dci_disentanglement"] > 0.95
    # Of the two factors one spreads over two of three dimensions.
    assert values["dci_completeness"] == pytest.approx((2 - np.log(2) / np.log(3)) / 2, abs=0.15)


def test_rotated_factors_are_entangled_but_there() -> None:
    latents = FACTORS[:, :2] @ ROTATION
    assert mutual_information_gap(latents, FACTORS[:, :2]) < 0.05
    values = dci(latents, FACTORS[:, :2])
    assert values["dci_disentanglement"] < 0.1
    assert values["dci_completeness"] < 0.1
    assert values["dci_informativeness"] > 0.95


def test_latents_that_know_nothing_score_nothing() -> None:
    assert mutual_information_gap(NOISE, FACTORS) < 0.02
    assert dci(NOISE, FACTORS)["dci_informativeness"] < 0.15


def test_constant_factors_and_latents_break_nothing() -> None:
    constant = np.zeros((4_000, 1))
    assert mutual_information_gap(constant, FACTORS) == pytest.approx(0)
    assert mutual_information_gap(FACTORS, constant) == 0
    assert np.isfinite(list(dci(constant, FACTORS).values())).all()
