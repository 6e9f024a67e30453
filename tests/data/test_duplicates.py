"""Against brute force by other libraries: Pillow's gray, torch's pooling, all pairs, scipy's components."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import laplace
from scipy.sparse.csgraph import connected_components
from torch.nn.functional import avg_pool2d

from src.data import duplicates
from src.data.archives import image_files
from src.data.dataset import split
from src.data.duplicates import (
    groups_of_thumbnails,
    mean_absolute_laplacian,
    near_duplicate_groups,
    smoothest_of_each,
)
from src.data.folder import Folder
from src.data.public import lines_digest


def grays_by_pillow(images: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"), np.float64) for image in images]
    )


def components_by_brute_force(images: np.ndarray) -> np.ndarray:
    thumbnails = avg_pool2d(torch.from_numpy(grays_by_pillow(images)), images.shape[-1] // 16).flatten(1)
    return connected_components(np.corrcoef(thumbnails.numpy()) > 0.97)[1]


def clean_by_brute_force(images: np.ndarray) -> list[int]:
    component = components_by_brute_force(images)
    roughness = [np.abs(laplace(gray)[1:-1, 1:-1]).mean() for gray in grays_by_pillow(images)]
    members = [np.flatnonzero(component == number) for number in range(component.max() + 1)]
    return sorted(int(min(group, key=lambda index: (roughness[index], index))) for group in members if len(group) > 1)


def same_partition(groups: np.ndarray, others: np.ndarray) -> bool:
    pairs = len(set(zip(groups.tolist(), others.tolist(), strict=True)))
    return pairs == len(set(groups.tolist())) == len(set(others.tolist()))


def copies_of_noise(seed: int = 0) -> np.ndarray:
    """Sixty random images of 32x32, half of them changed copies of others, shuffled."""
    rng = np.random.default_rng(seed)
    originals = rng.integers(0, 256, (30, 3, 32, 32))
    copies = originals[rng.integers(0, 30, 30)] * 0.8 + rng.normal(20, 8, (30, 3, 32, 32))
    return rng.permutation(np.concatenate([originals, copies]).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("block", [7, 60])
def test_groups_are_those_of_all_pairs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    images = copies_of_noise()
    groups = near_duplicate_groups(images)
    assert 25 < len(set(groups.tolist())) <= 30
    assert same_partition(groups, components_by_brute_force(images))


def test_a_groups_name_is_its_first_image() -> None:
    groups = near_duplicate_groups(copies_of_noise())
    assert all(group == np.flatnonzero(groups == group)[0] for group in groups)


def test_groups_are_transitive() -> None:
    # Neighbors on a circle correlate by cos(10 degrees) = 0.985, every second by cos(20 degrees) = 0.940.
    angles = np.radians(np.arange(0, 100, 10))
    vectors = np.random.default_rng(0).normal(size=(256, 2))
    x, y = np.linalg.qr(vectors - vectors.mean(0))[0].T
    circle = (np.outer(np.cos(angles), x) + np.outer(np.sin(angles), y)).astype(np.float32)
    order = np.random.default_rng(1).permutation(10)
    assert not groups_of_thumbnails(circle[order]).any()
    assert len(np.unique(groups_of_thumbnails(circle[::2]))) == 5


def test_brightness_and_contrast_do_not_matter() -> None:
    image = np.random.default_rng(0).integers(100, 140, (1, 3, 64, 64), dtype=np.uint8)
    assert near_duplicate_groups(np.concatenate([image, 2 * (image - 100), image + 100])).tolist() == [0, 0, 0]


def test_blank_images_group_with_their_equals_only() -> None:
    blank = np.stack([np.full((3, 16, 16), level, np.uint8) for level in (0, 255, 0, 7)])
    assert near_duplicate_groups(blank).tolist() == [0, 1, 0, 3]


def test_no_images_have_no_groups() -> None:
    nothing = np.empty((0, 3, 64, 64), np.uint8)
    assert near_duplicate_groups(nothing).shape == mean_absolute_laplacian(nothing).shape == (0,)


def test_laplacian_is_scipys() -> None:
    images = copies_of_noise()
    grays = grays_by_pillow(images)
    expected = [np.abs(laplace(gray)[1:-1, 1:-1]).mean() for gray in grays]
    np.testing.assert_allclose(mean_absolute_laplacian(images), expected)


def test_equal_images_are_equally_rough() -> None:
    images = copies_of_noise()[:3]
    roughness = mean_absolute_laplacian(np.concatenate([images] * 999))
    assert (roughness.reshape(999, 3) == roughness[:3]).all()


def test_smoothest_of_each_group_and_the_first_of_equals() -> None:
    groups = np.array([0, 1, 0, 1, 4, 0])
    roughness = np.array([3.0, 2.0, 1.0, 2.0, 0.0, 1.0])
    assert smoothest_of_each(groups, roughness).tolist() == [1, 2, 4]


def test_digest_is_that_of_a_text_file() -> None:
    assert lines_digest(["cat_2.png", "cat_10.png"]) == hashlib.sha256(b"cat_2.png\ncat_10.png\n").hexdigest()


def test_clean_list_of_the_sample_is_that_of_all_pairs(shared_cats: Path) -> None:
    dataset = Folder(shared_cats / "cat-faces-raw-sample.tar.gz", "cats").load(64)
    images = dataset[:].numpy()
    groups = near_duplicate_groups(images)
    assert same_partition(groups, components_by_brute_force(images))
    sizes = np.bincount(np.unique(groups, return_counts=True)[1])
    assert sizes.tolist() == [0, 311, 190, 265, 1, 1, 1]

    expected = clean_by_brute_force(images)
    smoothest = smoothest_of_each(groups, mean_absolute_laplacian(images))
    clean = [index for index in smoothest.tolist() if (groups == groups[index]).sum() > 1]
    assert clean == expected
    assert smoothest.tolist() == dataset.columns["smoothest"].nonzero()[:, 0].tolist()

    # The archive of clean faces, made by the rule from the whole set, holds some of the sample's: all are in the list.
    published = {Path(file.name).stem for file in image_files(shared_cats / "cat-faces-64.zip")}
    of_sample = published & {Path(name).stem for name in dataset.names}
    assert len(of_sample) == 420
    assert of_sample <= {Path(dataset.names[index]).stem for index in clean}


def test_split_of_the_sample_keeps_groups_whole_where_a_random_one_does_not(shared_cats: Path) -> None:
    dataset = Folder(shared_cats / "cat-faces-raw-sample.tar.gz", "cats").load(64)
    groups = torch.from_numpy(near_duplicate_groups(dataset[:].numpy()))
    whole = split(replace(dataset, groups=groups), val_fraction=0.05, seed=0)
    random = split(replace(dataset, groups=torch.arange(len(dataset))), val_fraction=0.05, seed=0)
    assert [len(side) for side in whole] == [len(side) for side in random] == [1426, 75]
    assert not set(whole[0].groups.tolist()) & set(whole[1].groups.tolist())
    sides = [{int(groups[row]) for row in side.rows} for side in random]
    assert len(sides[0] & sides[1]) == 61


@pytest.mark.slow
def test_clean_faces_are_no_near_duplicates_of_each_other(shared_cats: Path) -> None:
    images = Folder(shared_cats / "cat-faces-64.zip").load(64)[:].numpy()
    assert len(np.unique(near_duplicate_groups(images))) == 8500


@pytest.mark.slow
def test_thirty_thousand_images_take_less_than_a_minute() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10_000, 3, 64, 64), dtype=np.uint8)
    images = np.concatenate([images, images ^ 1, images ^ 2])
    started = time.monotonic()
    assert len(np.unique(near_duplicate_groups(images))) == 10_000
    assert time.monotonic() - started < 60
