"""An exported folder: a model without its training, its pages for the Hugging Face Hub, and nothing about a machine."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from src.core.files import write_atomic
from src.core.images import save_grid
from src.core.run_folder import EXPORTED
from src.evaluation.from_checkpoint import LoadedRun
from src.models.checkpoint.format import to_bytes
from src.models.checkpoint.loading import without_training
from src.models.inference import InferenceModel
from src.reports.export.card import License, measured, write_card
from src.reports.export.onnx_files import write_decoder, write_encoder

NUM_IMAGES, COLUMNS = 36, 9  # of the grid
# The versions that the test of the app runs with.
REQUIREMENTS = "gradio>=6.31\nnumpy>=2\nonnxruntime>=1.22\n"


def write_folder(run: LoadedRun, folder: Path, name: str, license: License, onnx: bool) -> list[Path]:
    """Write the exported folder of a run; return its files.

    name: the model's, on its card. onnx: also write the files that need no PyTorch, and an app of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, content, config = run.inference.cpu(), run.content, run.config
    facts = {
        "name": name,
        "model": config["model"]["_target_"].rpartition(".")[2],
        "image_size": config["data"]["image_size"],
        "latent_dim": model.latent_dim,
        "images_seen": content["images_seen"],
        "data_license": license.text,
    }
    metrics = measured(run)
    write_atomic(folder / EXPORTED, to_bytes(without_training(content, facts | {"metrics": metrics})))
    files = [folder / EXPORTED]
    prior = model.default_prior
    samples = next(model.sample_uint8(NUM_IMAGES, 0, NUM_IMAGES, prior))
    save_grid(samples, folder / "grid.png", COLUMNS)
    files.append(folder / "grid.png")
    if onnx:
        metadata = {key: str(value) for key, value in (facts | metrics).items()}
        files.append(write_decoder(model, folder / "decoder.onnx", metadata))
        if model.encoder is not None:
            files.append(write_encoder(model, folder / "encoder.onnx", metadata, facts["image_size"]))
        if prior == "mixture":
            files.append(write_prior(model, folder / "prior.npz"))
        files += [folder / "app.py", folder / "requirements.txt"]
        shutil.copyfile(Path(__file__).with_name("app.py"), folder / "app.py")
        (folder / "requirements.txt").write_text(REQUIREMENTS)
    files.append(write_card(folder / "README.md", run, facts, metrics, license, files))
    return files


def write_prior(model: InferenceModel, path: Path) -> Path:
    """Write the mixture of Gaussians: weights (K,), means (K, D) and Cholesky factors of the covariances (K, D, D)."""
    mixture: Any = model.mixture
    used = mixture.weights > 0
    weights = mixture.weights[used].double()
    means, choleskies = mixture.means[used].numpy(), mixture.choleskies[used].numpy()
    np.savez(path, weights=(weights / weights.sum()).numpy(), means=means, choleskies=choleskies)
    return path
