from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from src.core.files import user_cache_dir
from src.metrics.feature_metrics import Distance, FeatureMetrics
from src.metrics.frechet import FrechetDistance
from src.metrics.kernel import KernelDistance
from tests.helpers.feature_networks import PatchMeans, smooth_images

IMAGES = smooth_images(20, 1)


def metrics_of(network: PatchMeans | None = None, **distances: Distance) -> FeatureMetrics:
    return FeatureMetrics(network or PatchMeans(), distances or {"fd": FrechetDistance(), "kd": KernelDistance()})


class Source:
    """Counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self) -> list[Tensor]:
        self.reads += 1
        return [IMAGES]


def test_second_call_reads_no_image(tmp_path: Path) -> None:
    source = Source()
    results = [metrics_of().cached_features(source, "digest", 64, 20, str(tmp_path)) for _ in range(2)]
    assert source.reads == 1
    assert torch.equal(results[0].values, results[1].values)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]


def test_features_stay_in_memory_for_each_data_and_device(tmp_path: Path) -> None:
    source, metrics = Source(), metrics_of()
    first = metrics.cached_features(source, "digest", 64, 20, str(tmp_path))
    for path in tmp_path.iterdir():
        path.unlink()
    assert metrics.cached_features(source, "digest", 64, 20, str(tmp_path)) is first
    assert source.reads == 1
    metrics.cached_features(source, "other", 64, 20, str(tmp_path))
    assert source.reads == 2
    # It stands for a GPU.
    assert metrics.to("meta").cached_features(lambda: [IMAGES], "other", 64, 20, str(tmp_path)).device.type == "meta"


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "other"])
def test_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    source = Source()
    first = metrics_of().cached_features(source, "digest", 64, 20, str(tmp_path))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    features = first.values.numpy().tobytes()
    contents = {
        "empty": b"",
        "text": b"not an archive",
        "cut": whole[: len(whole) // 2],
        "flipped": whole.replace(features, features[:-1] + bytes([features[-1] ^ 1])),
        "other": whole,
    }
    path.write_bytes(contents[damage])
    if damage == "other":
        np.savez(path, other=np.zeros(3))
    with pytest.warns(UserWarning, match="damaged"):
        again = metrics_of().cached_features(source, "digest", 64, 20, str(tmp_path))
    assert source.reads == 2
    assert torch.equal(first.values, again.values)
    metrics_of().cached_features(source, "digest", 64, 20, str(tmp_path))
    assert source.reads == 2


def test_every_part_changes_the_name_of_the_file(tmp_path: Path) -> None:
    class OtherWeights(PatchMeans):
        digest = "other"

    class OtherNetwork(PatchMeans):
        name = "other"

    source = Source()
    for metrics, digest, image_size, num_images in (
        (metrics_of(), "digest", 64, 20),
        (metrics_of(), "other", 64, 20),
        (metrics_of(), "digest", 32, 20),
        (metrics_of(), "digest", 64, 21),
        (metrics_of(OtherWeights()), "digest", 64, 20),
        (metrics_of(OtherNetwork()), "digest", 64, 20),
    ):
        metrics.cached_features(source, digest, image_size, num_images, str(tmp_path))
    assert source.reads == len(list(tmp_path.iterdir())) == 6
    # Every distance is of the same features.
    metrics_of(kd=KernelDistance(max_samples=5)).cached_features(source, "digest", 64, 20, str(tmp_path))
    assert source.reads == 6


def test_unwritable_folder_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="not cached"):
        features = metrics_of().cached_features(Source(), "digest", 64, 20, str(tmp_path / "file" / "folder"))
    assert len(features) == 20


def test_default_folder_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert user_cache_dir() == Path.home() / ".cache/cat-faces"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    metrics_of().cached_features(Source(), "digest", 64, 20)
    assert len(list((tmp_path / "cat-faces" / "features").glob("*.npz"))) == 1
