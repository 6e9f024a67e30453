import os
from pathlib import Path

import pytest
import torch

from src.data.dataset import FilePixels, ImageDataset, split
from tests.helpers.tiny import in_memory, random_images


def images_in(groups: list[int]) -> ImageDataset:
    return in_memory(random_images(len(groups), size=2), [str(n) for n in range(len(groups))], torch.tensor(groups))


def test_selection_keeps_what_belongs_together() -> None:
    images, factors = random_images(9, size=4), torch.rand(9, 2)
    groups = torch.arange(9) // 2
    dataset = in_memory(images, list("abcdefghi"), groups, factors).select(slice(1, None, 2)).select([3, 0, 0])
    assert torch.equal(dataset[:], images[[7, 1, 1]])
    assert torch.equal(dataset[torch.tensor([1])], images[[1]])
    assert dataset.names == ["h", "b", "b"]
    assert dataset.groups.tolist() == [3, 0, 0]
    assert dataset.factors is not None
    assert torch.equal(dataset.factors, factors[[7, 1, 1]])
    assert len(dataset) == 3


def test_batches_are_all_images_in_turn() -> None:
    images = images_in([0] * 10)
    batches = list(images.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat(batches), images[:])


def test_digest_sees_choice_and_order() -> None:
    images = images_in([0] * 3)
    digests = {images.select(rows).digest for rows in ([0, 1, 2], [0, 2, 1], [0, 1], [0, 0, 1])}
    assert len(digests) == 4
    assert images.digest in digests


@pytest.mark.parametrize("seed", range(20))
def test_split_keeps_groups_whole_and_holds_out_what_was_asked(seed: int) -> None:
    groups = torch.randint(400, (1000,), generator=torch.Generator().manual_seed(seed))
    train, val = split(images_in(groups.tolist()), 0.1, seed)
    assert not set(train.groups.tolist()) & set(val.groups.tolist())
    assert sorted(train.names + val.names, key=int) == [str(number) for number in range(1000)]
    assert len(val) == 100


@pytest.mark.parametrize(
    ("sizes", "val_fraction", "num_val"),
    [([10] * 10, 0.14, 10), ([10] * 10, 0.16, 20), ([100], 0.9, 0), ([95, 5], 0.01, 0), ([95, 5], 0.03, 5)],
)
def test_split_of_large_groups_is_the_nearest(sizes: list[int], val_fraction: float, num_val: int) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    assert len(split(images_in(groups), val_fraction, seed=0)[1]) == num_val


def test_split_of_images_without_groups_takes_the_first_of_a_random_order() -> None:
    train, val = split(images_in(list(range(200))), 0.1, seed=3)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    assert val.names == [str(number) for number in sorted(order[:20].tolist())]
    assert len(train) == 180


@pytest.mark.parametrize("has_preadv", [True, False])
def test_pixels_of_a_file_are_those_of_the_tensor(
    has_preadv: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random_images(5, size=4)
    (tmp_path / "pixels").write_bytes(images.numpy().tobytes())
    if not has_preadv:  # as on Windows
        monkeypatch.delattr(os, "preadv", raising=False)
    pixels = FilePixels(tmp_path / "pixels", (5, 3, 4, 4), "")
    rows = torch.tensor([4, 0, 0, 2])
    assert torch.equal(pixels[rows], images[rows])
    assert len(pixels[rows[:0]]) == 0
