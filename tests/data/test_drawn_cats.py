import hashlib
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from src.data.drawn_cats.factors import FACTORS, draw_cats, draw_factors

CONTINUOUS = [factor.name for factor in FACTORS if not factor.choices]


def column(name: str) -> int:
    return [factor.name for factor in FACTORS].index(name)


def middling_cat(**chosen: float | str) -> NDArray[np.float32]:
    """One row of factors, each in the middle of its range or as chosen; a ginger tabby unless told otherwise."""
    row = np.array([[(factor.low + factor.high) / 2 for factor in FACTORS]], np.float32)
    for name, value in {"coat": "ginger", "pattern": "tabby", **chosen}.items():
        choices = FACTORS[column(name)].choices
        row[0, column(name)] = choices.index(value) if isinstance(value, str) else value
    return row


def mean_difference(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).mean())


def test_factors_depend_on_seed_and_index_alone() -> None:
    whole = draw_factors(np.arange(1000), seed=3)
    picked = np.array([998, 0, 17, 17, 500])
    np.testing.assert_array_equal(draw_factors(picked, seed=3), whole[picked])
    assert not np.any(np.all(draw_factors(np.arange(1000), seed=4) == whole, axis=1))


def test_factors_fill_their_ranges_independently() -> None:
    factors = draw_factors(np.arange(20_000), seed=0)
    assert factors.dtype == np.float32
    for factor, values in zip(FACTORS, factors.T, strict=True):
        if factor.choices:
            counts = np.bincount(values.astype(int), minlength=len(factor.choices))
            assert len(counts) == len(factor.choices)
            assert np.all(np.abs(counts * len(factor.choices) / 20_000 - 1) < 0.1)
        else:
            assert factor.low <= values.min()
            assert values.max() <= factor.high
            deciles = np.histogram(values, bins=10, range=(factor.low, factor.high))[0]
            assert np.all(np.abs(deciles / 2000 - 1) < 0.15)
    correlations = np.corrcoef(factors.T) - np.eye(len(FACTORS))
    assert np.abs(correlations).max() < 0.04


@pytest.mark.parametrize("image_size", [32, 64, 128, 256])
def test_images_are_the_same_whatever_they_are_drawn_with(image_size: int) -> None:
    factors = draw_factors(np.arange(40), seed=0)
    together = draw_cats(factors, image_size)
    assert together.shape == (40, 3, image_size, image_size)
    assert together.dtype == np.uint8
    assert np.ptp(together) > 200
    shuffled = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(draw_cats(factors[shuffled], image_size), together[shuffled])
    alone = np.concatenate([draw_cats(factors[i : i + 1], image_size) for i in range(40)])
    np.testing.assert_array_equal(alone, together)


def test_no_images_are_drawn_of_no_factors() -> None:
    assert draw_cats(draw_factors(np.arange(0), seed=0), 64).shape == (0, 3, 64, 64)


def test_ten_thousand_images_all_differ() -> None:
    images = draw_cats(draw_factors(np.arange(10_000), seed=0), 32)
    assert len({hashlib.sha256(image.tobytes()).digest() for image in images}) == 10_000


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_continuous_factor_moves_the_image_smoothly(name: str) -> None:
    factor = FACTORS[column(name)]
    traversal = np.repeat(middling_cat(), 9, axis=0)
    traversal[:, column(name)] = np.linspace(factor.low, factor.high, 9)
    images = draw_cats(traversal, 64)
    steps = [mean_difference(a, b) for a, b in pairwise(images)]
    assert min(steps) > 0.02
    assert max(steps) < 10


@pytest.mark.parametrize("name", ["coat", "pattern"])
def test_each_choice_looks_different(name: str) -> None:
    cats = np.concatenate([middling_cat(**{name: choice}) for choice in FACTORS[column(name)].choices])
    images = draw_cats(cats, 64)
    differences = [mean_difference(a, b) for i, a in enumerate(images) for b in images[:i]]
    assert min(differences) > 3


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_an_image_is_the_average_of_one_twice_its_size(image_size: int) -> None:
    factors = draw_factors(np.arange(40), seed=0)
    large = draw_cats(factors, 2 * image_size).reshape(40, 3, image_size, 2, image_size, 2).mean(axis=(3, 5))
    error = np.abs(large - draw_cats(factors, image_size)).mean(axis=(1, 2, 3))
    assert error.max() < 3


@pytest.mark.parametrize("pattern", ["solid", "tabby", "bicolor", "points"])
def test_a_cat_that_looks_straight_ahead_is_its_mirror_image(pattern: str) -> None:
    image = draw_cats(middling_cat(pattern=pattern), 64)[0].astype(int)
    assert np.abs(image - image[:, :, ::-1]).max() <= 1


def test_mirrored_factors_give_the_mirrored_image() -> None:
    factors = draw_factors(np.arange(100), seed=0)
    factors = factors[factors[:, column("pattern")] != FACTORS[column("pattern")].choices.index("calico")]
    mirrored = factors.copy()
    mirrored[:, [column(name) for name in ("marking_shift", "gaze", "shift_x", "roll", "yaw", "light")]] *= -1
    difference = draw_cats(mirrored, 64)[..., ::-1].astype(int) - draw_cats(factors, 64)
    assert np.abs(difference).max() <= 2
