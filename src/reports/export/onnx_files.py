"""ONNX files of a model, written by PyTorch's exporter: they run wherever onnxruntime does."""

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from src.core.images import from_uint8, to_uint8
from src.models.inference import InferenceModel

OPSET = 18


class Decode(nn.Module):
    """latents (N, latent_dim) -> images, uint8 (N, H, W, 3)."""

    def __init__(self, model: InferenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> Tensor:
        return to_uint8(self.model.decode(latents)).permute(0, 2, 3, 1)


class Encode(nn.Module):
    """images, uint8 (N, H, W, 3) -> latents (N, latent_dim)."""

    def __init__(self, model: InferenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.encode(from_uint8(images.permute(0, 3, 1, 2)))


def write_decoder(model: InferenceModel, path: Path, metadata: dict[str, str]) -> Path:
    """Write the file that maps `latents` (N, latent_dim), float32, to `images` (N, H, W, 3), uint8."""
    return write(Decode(model), torch.zeros(2, model.latent_dim), "latents", "images", path, metadata)


def write_encoder(model: InferenceModel, path: Path, metadata: dict[str, str], image_size: int) -> Path:
    """Write the file that maps `images` (N, H, W, 3), uint8, to `latents` (N, latent_dim), float32."""
    images = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    return write(Encode(model), images, "images", "latents", path, metadata)


def write(module: nn.Module, example: Tensor, given: str, returned: str, path: Path, metadata: dict[str, str]) -> Path:
    """Export a module of one input and one output, whose first dimensions are a batch of any size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=[given],
            output_names=[returned],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    proto = program.model_proto  # type: ignore[union-attr]
    # The exporter notes where in which file each operation stands: paths of this machine.
    for entry in (*proto.graph.node, *proto.graph.value_info, *proto.graph.initializer, proto.graph):
        del entry.metadata_props[:]
    for entry in (*proto.graph.node, proto.graph, proto):
        entry.doc_string = ""
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, path)
    return path
