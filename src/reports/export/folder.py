"""An exported folder: a model without its training, its pages for the Hugging Face Hub, and nothing about a machine."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from src.core.errors import UserError
from src.core.files import write_atomic
from src.core.images import save_grid
from src.core.run_folder import EXPORTED
from src.evaluation.from_checkpoint import LoadedRun
from src.models.checkpoint.format import to_bytes
from src.models.checkpoint.loading import without_training
from src.reports.export.card import License, measured, write_card
from src.reports.export.onnx_files import MODELS, write_models

NUM_IMAGES, COLUMNS = 36, 9  # of the grid
PRIOR = "prior.npz"
# The versions that the test of the app runs with.
REQUIREMENTS = "gradio>=6.31\nnumpy>=2\nonnxruntime>=1.22\n"


def write_folder(run: LoadedRun, folder: Path, name: str, license: License, onnx: bool) -> list[str]:
    """Write the exported folder of a run; return the names of its files.

    name: the model's, on its card. onnx: also write the files that need no PyTorch, and an app of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (*MODELS, PRIOR):  # of a model that was exported to this folder before
        (folder / stale).unlink(missing_ok=True)
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
    prior = model.default_prior
    save_grid(torch.cat(list(model.sample_uint8(NUM_IMAGES, 0, prior))), folder / "grid.png", COLUMNS)
    names = [EXPORTED, "grid.png"]
    if onnx:
        metadata = {key: str(value) for key, value in (facts | metrics).items()}
        names += write_models(model, folder, metadata, facts["image_size"])
        if prior == "mixture":
            mixture: Any = model.mixture
            weights = mixture.weights.double().numpy()  # of float32 the sum is not exactly 1
            arrays = {"means": mixture.means.numpy(), "choleskies": mixture.choleskies.numpy()}
            np.savez(folder / PRIOR, weights=weights / weights.sum(), **arrays)
            names.append(PRIOR)
        shutil.copyfile(Path(__file__).with_name("app.py"), folder / "app.py")
        (folder / "requirements.txt").write_text(REQUIREMENTS)
        names += ["app.py", "requirements.txt"]
    write_card(folder / "README.md", run, facts, metrics, license, names)
    return [*names, "README.md"]


def publish(folder: Path, names: list[str], repository: str, private: bool) -> str:
    """Upload the files of a folder as a model of the Hugging Face Hub, after saying so; return its address.

    Raises UserError for a repository that is no user/name, and where the Hub refuses.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"publish={repository}: give user/name, as on the Hugging Face Hub")
    api, megabytes = HfApi(), sum((folder / name).stat().st_size for name in names) / 1e6
    address, kind = f"{api.endpoint}/{repository}", "private" if private else "public"
    print(f"uploading {len(names)} files ({', '.join(names)}), {megabytes:.1f} MB, to {address} ({kind})", flush=True)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=names,
            delete_patterns=[*MODELS, PRIOR],  # of a model that was published there before
            commit_message="Upload a model of cat faces",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"publish={repository}: the Hub did not take it ({reason}); log in by `hf auth login`, or set HF_TOKEN to "
            f"a token that may write; the folder {folder} is complete"
        ) from error
    return address
