import torch

from src.core.images import from_uint8, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_every_gray_level_survives_a_round_trip() -> None:
    assert torch.equal(to_uint8(from_uint8(LEVELS)), LEVELS)
    assert torch.equal(to_uint8(from_uint8(LEVELS).double()), LEVELS)


def test_range_is_minus_one_to_one() -> None:
    images = from_uint8(LEVELS)
    assert images[[0, 255]].tolist() == [-1, 1]
    torch.testing.assert_close(images.diff(), torch.full((255,), 2 / 255))


def test_rounding_is_to_nearest() -> None:
    almost_half_a_level = 0.99 / 255
    assert torch.equal(to_uint8(from_uint8(LEVELS) + almost_half_a_level), LEVELS)
    assert torch.equal(to_uint8(from_uint8(LEVELS) - almost_half_a_level), LEVELS)
    more_than_half = 1.01 / 255
    assert torch.equal(to_uint8(from_uint8(LEVELS) + more_than_half)[:-1], LEVELS[1:])


def test_values_out_of_range_are_clamped() -> None:
    assert to_uint8(torch.tensor([-3.0, -1.1, 1.1, 3.0, torch.inf, -torch.inf])).tolist() == [0, 0, 255, 255, 255, 0]


def test_bfloat16_is_rounded_in_full_precision() -> None:
    """A bfloat16 image times 127.5 would lose levels that the image still has."""
    images = from_uint8(LEVELS).bfloat16()
    assert torch.equal(to_uint8(images), to_uint8(images.double()))
