import math

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.cat_heads import HeadNetwork, find_heads, head_finder, overlaps, surroundings, without_overlaps
from src.data.decoding import HEAD_WEIGHTS, MIN_SCORE


def test_cells_become_boxes_in_pixels() -> None:
    maps = torch.zeros(1, 5, 2, 3)
    maps[0, :, 1, 2] = torch.tensor([7.0, 0.5, -0.5, math.log(2), math.log(0.5)])
    boxes = head_finder().boxes(maps)[0]
    assert boxes.shape == (6, 5)
    assert boxes[0].tolist() == [0, 8 - 32, 8 - 32, 8 + 32, 8 + 32]  # the first cell's center is at 8, 8
    torch.testing.assert_close(boxes[5], torch.tensor([7.0, 48 - 64, 16 - 16, 48 + 64, 16 + 16]))


def test_overlap_is_intersection_over_union() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [0, 0, 4, 4], [5, 5, 6, 6]])
    torch.testing.assert_close(overlaps(boxes, torch.tensor([0.0, 0, 2, 2])), torch.tensor([1, 1 / 7, 1 / 4, 0]))


def test_best_of_each_place_is_kept() -> None:
    found = torch.tensor([[0.1, 0, 0, 10, 10], [0.9, 1, 0, 11, 10], [0.5, 30, 0, 40, 10], [0.3, 9, 0, 19, 10]])
    assert torch.equal(without_overlaps(found), found[[1, 2, 3]])
    assert without_overlaps(found[:0]).shape == (0, 5)


def test_second_look_stays_inside_the_photo() -> None:
    assert surroundings([40, 40, 60, 50], (100, 100)) == (30, 25, 70, 65)
    assert surroundings([0, 80, 20, 100], (100, 100)) == (0, 60, 40, 100)
    assert surroundings([0, 0, 90, 90], (100, 120)) == (0, 0, 100, 120)


def test_weights_are_small() -> None:
    assert HEAD_WEIGHTS.stat().st_size < 2_000_000
    assert sum(parameter.numel() for parameter in HeadNetwork().parameters()) * 4 < 2_000_000


def room(seed: int, width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (33, 40), (1, 1)])
def test_no_cat_is_found_where_there_is_none(size: tuple[int, int]) -> None:
    for seed in range(3):
        heads = find_heads(room(seed, *size))
        assert all(head.score < MIN_SCORE for head in heads)
        assert all(0 <= head.box[0] <= head.box[2] <= size[0] for head in heads)
        assert all(0 <= head.box[1] <= head.box[3] <= size[1] for head in heads)
