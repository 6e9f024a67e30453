import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torchmetrics.image.fid import FrechetInceptionDistance

from src.core.distributed import gather_rows
from src.core.errors import UserError
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import Features, FrechetDistance
from src.metrics.kernel import KernelDistance
from tests.helpers.feature_networks import PatchMeans, smooth_images

CPU = torch.device("cpu")
REAL, GENERATED = smooth_images(40, 1), smooth_images(30, 2, contrast=90)


def both_distances() -> FeatureMetrics:
    return FeatureMetrics(PatchMeans(), {"fd": FrechetDistance(), "kd": KernelDistance()})


def test_frechet_distance_matches_torchmetrics() -> None:
    theirs = FrechetInceptionDistance(PatchMeans())
    theirs.update(REAL, real=True)
    theirs.update(GENERATED, real=False)
    metrics = both_distances()
    values = metrics.compare(metrics.extract(REAL.split(7)), metrics.extract(GENERATED.split(30)))
    assert values["fd"] == pytest.approx(theirs.compute().item(), rel=1e-5)
    assert set(values) == {"fd", "kd", "kd_std"}


def test_each_image_is_read_once() -> None:
    read = 0

    class Counting(PatchMeans):
        def extract(self, images: Tensor) -> Tensor:
            nonlocal read
            read += len(images)
            return super().extract(images)

    FeatureMetrics(Counting(), {"fd": FrechetDistance(), "kd": KernelDistance()}).extract(REAL.split(9))
    assert read == len(REAL)


def test_random_numbers_stay_as_they_are() -> None:
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"], random.getstate()  # noqa: NPY002
    metrics = FeatureMetrics(PatchMeans(), {"kd": KernelDistance(subsets=3, subset_size=5), "fd": FrechetDistance()})
    metrics.compare(metrics.extract([REAL]), metrics.extract([GENERATED]))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state(legacy=False)["state"]["key"], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.mark.parametrize(("name", "instead"), [("fid", "fd_patches"), ("kid", "kd_patches")])
def test_inception_names_are_refused_to_other_networks(name: str, instead: str) -> None:
    with pytest.raises(UserError, match=instead):
        FeatureMetrics(PatchMeans(), {name: FrechetDistance()})


def on_one_of_two_ranks(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    metrics = both_distances()
    unequal = metrics.extract(REAL[rank:39:2].split(8)).values
    empty = metrics.extract([GENERATED] if rank == 0 else []).values
    rows = gather_rows(
        [torch.tensor([[0.0], [2.0], [4.0], [5.0]]) if rank == 0 else torch.tensor([[1.0], [3.0]])], 1, CPU
    )

    # A folder for each rank stands for a disk for each: in the second round only rank zero could find the file.
    def share() -> list[Tensor]:
        return [REAL[rank::2]]

    cached = [
        both_distances().cached_features(share, "digest", 64, 40, str(folder / f"cache{rank}")).values for _ in range(2)
    ]
    torch.save((unequal, empty, rows, *cached), folder / f"gathered{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_unequal_shares_match_one_process(tmp_path: Path) -> None:
    spawn(on_one_of_two_ranks, args=(tmp_path,), nprocs=2)
    metrics = both_distances()
    real, generated = metrics.extract([REAL]), metrics.extract([GENERATED])
    for rank in range(2):
        unequal, empty, rows, *cached = torch.load(tmp_path / f"gathered{rank}.pt", weights_only=True)
        torch.testing.assert_close(unequal, real.values[:39])
        torch.testing.assert_close(empty, generated.values)
        assert rows.flatten().tolist() == [0, 1, 2, 3, 4, 5]
        for values in cached:
            torch.testing.assert_close(values, real.values)
            expected = metrics.compare(real, generated)
            assert metrics.compare(Features(values), Features(empty)) == pytest.approx(expected, rel=1e-6)
    assert list((tmp_path / "cache0").iterdir())
    assert not (tmp_path / "cache1").exists()


def test_rows_of_one_rank_are_its_own_in_single_precision() -> None:
    rows = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(gather_rows(rows.split(2), 3, CPU), rows.float())
    assert gather_rows([], 3, CPU).shape == (0, 3)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_floor_is_the_distance_of_real_images_in_whatever_batches(batch_size: int) -> None:
    """Real images of the same distribution have it, and half as many about twice of it."""
    metrics, images = FeatureMetrics(PatchMeans(), {"fd": FrechetDistance()}), smooth_images(2_000, 0)
    real = metrics.extract(images.split(batch_size))
    halves = metrics.compare(metrics.extract([images[::2]]), metrics.extract([images[1::2]]))
    # Its images and as many others are 2,000 each, those of the halves 1,000.
    assert metrics.floors(lambda: real, 2_000, 2_000)["fd_floor"] == pytest.approx(halves["fd"] / 2, rel=1e-4)
    for count in (200, 400):
        others = [smooth_images(count, seed) for seed in range(1, 21)]
        found = [metrics.compare(real, metrics.extract([other]))["fd"] for other in others]
        floor = metrics.floors(lambda: real, 2_000, count)["fd_floor"]
        assert floor == pytest.approx(np.mean(found), rel=0.4)  # of 12 features


def test_few_images_and_other_distances_have_no_floor() -> None:
    metrics = FeatureMetrics(PatchMeans(), {"fd": FrechetDistance()})
    assert metrics.floors(lambda: metrics.extract([REAL[:7]]), 7, 40) == {}
    assert metrics.floors(lambda: metrics.extract([REAL[:8]]), 8, 40).keys() == {"fd_floor"}
    kernel = FeatureMetrics(PatchMeans(), {"kd": KernelDistance()})
    assert kernel.floors(lambda: pytest.fail("not needed"), len(REAL), 40) == {}
