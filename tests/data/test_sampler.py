from itertools import islice

import pytest
import torch
from torch import Tensor

from src.data.dataset import split
from src.data.sampler import ImageStream, stream_positions
from tests.helpers.tiny import in_memory, random_images

SIZE = 23
NAMES = [f"{number}.png" for number in range(SIZE)]
IMAGES = random_images(SIZE, size=8)


def numbered(count: int) -> Tensor:
    """Images whose pixels are their number."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()


def numbers(start: int, stop: int, seed: int = 0) -> list[int]:
    stream = ImageStream(in_memory(numbered(SIZE), NAMES), seed, horizontal_flip=True)
    return stream[range(start, stop)][:, 0, 0, 0].tolist()


def batches(start: int, batch_size: int, rank: int, world_size: int, count: int) -> list[range]:
    return list(islice(stream_positions(start, batch_size, rank, world_size), count))


def test_every_pass_has_every_image_once() -> None:
    stream = numbers(0, 4 * SIZE)
    for start in range(0, 4 * SIZE, SIZE):
        assert sorted(stream[start : start + SIZE]) == list(range(SIZE))


def test_every_pass_and_every_seed_has_an_order_of_its_own() -> None:
    orders = [numbers(start, start + SIZE, seed) for seed in (0, 1) for start in (0, SIZE, 2 * SIZE)]
    assert len({tuple(order) for order in orders}) == 6
    assert numbers(0, 3 * SIZE, seed=1) == [number for order in orders[3:] for number in order]


@pytest.mark.parametrize("batch_size", [1, 4, SIZE, 60])
def test_stream_is_the_same_in_whatever_batches(batch_size: int) -> None:
    """60 images are more than two passes."""
    stream = ImageStream(in_memory(IMAGES, NAMES), 0, horizontal_flip=True)
    whole = stream[range(60)]
    parts = [stream[range(start, min(start + batch_size, 60))] for start in range(0, 60, batch_size)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("position", [0, 5, SIZE, 40])
def test_a_stream_begun_later_goes_on_the_same(position: int) -> None:
    whole = ImageStream(in_memory(IMAGES, NAMES), 3, horizontal_flip=True)[range(70)]
    later = ImageStream(in_memory(IMAGES, NAMES), 3, horizontal_flip=True)[range(position, 70)]
    assert torch.equal(later, whole[position:])


@pytest.mark.parametrize("world_size", [2, 4])
def test_shares_of_the_ranks_joined_are_the_batches_of_one(world_size: int) -> None:
    one = batches(100, 8, rank=0, world_size=1, count=5)
    shares = [batches(100, 8, rank, world_size, count=5) for rank in range(world_size)]
    for step in range(5):
        assert [position for share in shares for position in share[step]] == list(one[step])
    assert [position for batch in one for position in batch] == list(range(100, 140))


def test_half_the_images_are_mirrored_anew_each_pass() -> None:
    count = 1000
    left_to_right = torch.arange(0, 256, 32, dtype=torch.uint8).expand(count, 3, 8, 8).contiguous()
    stream = ImageStream(in_memory(left_to_right, [""] * count), 0, horizontal_flip=True)
    first, second = (stream[range(start, start + count)][:, 0, 0, 0] > 0 for start in (0, count))
    for flipped in (first, second, first == second):
        assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_every_image_is_itself_or_its_mirror_image() -> None:
    order = numbers(0, 3 * SIZE)
    images = ImageStream(in_memory(IMAGES, NAMES), 0, horizontal_flip=True)[range(3 * SIZE)]
    as_it_is = [torch.equal(image, IMAGES[number]) for image, number in zip(images, order, strict=True)]
    mirrored = [torch.equal(image.flip(-1), IMAGES[number]) for image, number in zip(images, order, strict=True)]
    assert all(one != other for one, other in zip(as_it_is, mirrored, strict=True))
    assert any(mirrored)


def test_without_flips_images_stay_as_they_are_in_the_same_order() -> None:
    images = ImageStream(in_memory(IMAGES, NAMES), 0, horizontal_flip=False)[range(SIZE)]
    assert torch.equal(images, IMAGES[numbers(0, SIZE)])


def test_streaming_leaves_the_images_alone() -> None:
    images = IMAGES.clone()
    ImageStream(in_memory(images, NAMES), 0, horizontal_flip=True)[range(2 * SIZE)]
    assert torch.equal(images, IMAGES)


def split_names(count: int, val_fraction: float, seed: int = 0) -> tuple[list[str], list[str]]:
    images = in_memory(numbered(count), [f"{number}.png" for number in range(count)])
    parts = split(images, val_fraction, seed)
    for part in parts:
        assert [f"{number}.png" for number in part[:][:, 0, 0, 0].tolist()] == part.names
    return parts[0].names, parts[1].names


@pytest.mark.parametrize(("val_fraction", "num_val"), [(0.0, 0), (0.05, 10), (0.5, 100), (0.99, 198)])
def test_split_loses_and_shares_nothing(val_fraction: float, num_val: int) -> None:
    train, val = split_names(200, val_fraction)
    assert len(val) == num_val
    assert sorted(train + val) == sorted(f"{number}.png" for number in range(200))


def test_split_belongs_to_its_seed() -> None:
    assert split_names(200, 0.1, seed=1) == split_names(200, 0.1, seed=1)
    assert split_names(200, 0.1, seed=1) != split_names(200, 0.1, seed=2)


def test_split_keeps_the_order() -> None:
    for names in split_names(200, 0.3):
        assert names == sorted(names, key=lambda name: int(name.removesuffix(".png")))
