import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torchmetrics.image.fid import FrechetInceptionDistance

from src.core.errors import UserError
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import FrechetDistance
from src.metrics.kernel import KernelDistance
from tests.helpers.feature_networks import PatchMeans, smooth_images

REAL, GENERATED = smooth_images(40, 1), smooth_images(30, 2, contrast=90)


def both_distances() -> FeatureMetrics:
    return FeatureMetrics(PatchMeans(), {"fd": FrechetDistance(), "kd": KernelDistance()})


def test_frechet_distance_matches_torchmetrics() -> None:
    theirs = FrechetInceptionDistance(PatchMeans())
    theirs.update(REAL, real=True)
    theirs.update(GENERATED, real=False)
    metrics = both_distances()
    values = metrics.compare(metrics.summarize(REAL.split(7)), metrics.summarize(GENERATED.split(30)))
    assert values["fd"] == pytest.approx(theirs.compute().item(), rel=1e-5)
    assert set(values) == {"fd", "kd", "kd_std"}


def test_each_image_is_read_once() -> None:
    read = 0

    class Counting(PatchMeans):
        def extract(self, images: Tensor) -> Tensor:
            nonlocal read
            read += len(images)
            return super().extract(images)

    FeatureMetrics(Counting(), {"fd": FrechetDistance(), "kd": KernelDistance()}).summarize(REAL.split(9))
    assert read == len(REAL)


def test_statistics_survive_a_file(tmp_path: Path) -> None:
    metrics = both_distances()
    real, generated = metrics.summarize([REAL]), metrics.summarize([GENERATED])
    torch.save(real, tmp_path / "real.pt")
    loaded = torch.load(tmp_path / "real.pt", weights_only=True)
    assert metrics.compare(loaded, generated) == metrics.compare(real, generated)


def test_random_numbers_stay_as_they_are() -> None:
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"], random.getstate()  # noqa: NPY002
    metrics = FeatureMetrics(PatchMeans(), {"kd": KernelDistance(subsets=3, subset_size=5), "fd": FrechetDistance()})
    metrics.compare(metrics.summarize([REAL]), metrics.summarize([GENERATED]))
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
    unequal = metrics.summarize((REAL[:11] if rank == 0 else REAL[11:]).split(8))
    empty = metrics.summarize([GENERATED] if rank == 0 else [])
    torch.save((unequal, empty), folder / f"shares{rank}.pt")

    # A folder for each rank stands for a disk for each: in the second round only rank zero could find the file.
    def share() -> list[Tensor]:
        return [REAL[:20] if rank == 0 else REAL[20:]]

    for _ in range(2):
        cached = metrics.cached_statistics(share, "digest", 64, 40, str(folder / f"cache{rank}"))
    torch.save(cached, folder / f"cached{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_unequal_shares_match_one_process(tmp_path: Path) -> None:
    spawn(on_one_of_two_ranks, args=(tmp_path,), nprocs=2)
    metrics = both_distances()
    real, generated = metrics.summarize([REAL]), metrics.summarize([GENERATED])
    for rank in range(2):
        unequal, empty = torch.load(tmp_path / f"shares{rank}.pt", weights_only=True)
        cached = torch.load(tmp_path / f"cached{rank}.pt", weights_only=True)
        for key in metrics.gathered:
            torch.testing.assert_close(unequal[key], real[key])
            torch.testing.assert_close(empty[key], generated[key])
        torch.testing.assert_close(cached["moments"], real["moments"])
        expected = metrics.compare(real, generated)
        assert metrics.compare(cached, empty) == pytest.approx(expected, rel=1e-6)
    assert list((tmp_path / "cache0").iterdir())
    assert not (tmp_path / "cache1").exists()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_floor_is_the_distance_of_real_images_in_whatever_batches(batch_size: int) -> None:
    """Real images of the same distribution have it, and half as many about twice of it."""
    metrics, images = FeatureMetrics(PatchMeans(), {"fd": FrechetDistance()}), smooth_images(2_000, 0)
    real = metrics.summarize_real(images.split(batch_size), len(images))
    assert set(real) == {"moments", "bias"}
    halves = metrics.compare(metrics.summarize([images[::2]]), metrics.summarize([images[1::2]]))
    assert metrics.floors(real, 1_000, 1_000)["fd_floor"] == pytest.approx(halves["fd"], rel=1e-4)
    for count in (200, 400):
        others = [smooth_images(count, seed) for seed in range(1, 21)]
        found = [metrics.compare(real, metrics.summarize([other]))["fd"] for other in others]
        assert metrics.floors(real, 2_000, count)["fd_floor"] == pytest.approx(
            np.mean(found), rel=0.4
        )  # of 12 features


def test_few_images_and_other_distances_have_no_floor() -> None:
    assert FeatureMetrics(PatchMeans(), {"fd": FrechetDistance()}).summarize_real([REAL[:7]], 7).keys() == {"moments"}
    kernel = FeatureMetrics(PatchMeans(), {"kd": KernelDistance()})
    assert kernel.floors(kernel.summarize_real([REAL], 40), 40, 40) == {}
