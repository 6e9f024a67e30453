"""ONNX files of a model, written by PyTorch's exporter: they run wherever onnxruntime does."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from src.core.images import from_uint8, to_uint8
from src.models.inference import InferenceModel

OPSET = 18
MODELS = DECODER, ENCODER = "decoder.onnx", "encoder.onnx"


class Program(nn.Module):
    """A function of a model and one batch, as a module that the exporter takes."""

    def __init__(self, model: InferenceModel, function: Callable[[InferenceModel, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, batch: Tensor) -> Tensor:
        return self.function(self.model, batch)


def decode(model: InferenceModel, latents: Tensor) -> Tensor:
    """Map latents (N, latent_dim) to images, uint8 (N, H, W, 3)."""
    return to_uint8(model.decode(latents)).permute(0, 2, 3, 1)


def encode(model: InferenceModel, images: Tensor) -> Tensor:
    """Map images, uint8 (N, H, W, 3), to latents (N, latent_dim)."""
    return model.encode(from_uint8(images.permute(0, 3, 1, 2)))


def write_models(model: InferenceModel, folder: Path, metadata: dict[str, str], image_size: int) -> list[str]:
    """Write decoder.onnx and, for models that encode, encoder.onnx; return their names."""
    latents, images = torch.zeros(2, model.latent_dim), torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    write(Program(model, decode), latents, "latents", "images", folder / DECODER, metadata)
    if model.encoder is None:
        return [DECODER]
    write(Program(model, encode), images, "images", "latents", folder / ENCODER, metadata)
    return [DECODER, ENCODER]


def write(module: nn.Module, example: Tensor, given: str, returned: str, path: Path, metadata: dict[str, str]) -> None:
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
    graph = proto.graph
    # The exporter notes where in which file each operation stands: paths of this machine.
    for entry in (proto, graph, *graph.node, *graph.value_info, *graph.initializer):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, path)
