"""The model card of an exported folder, in the format of the Hugging Face Hub."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from src.core.errors import UserError
from src.core.run_folder import read_config
from src.evaluation.from_checkpoint import LoadedRun

LIKE_SAMPLES = ("fid", "kid", "fd_", "kd_", "copied_")  # metrics that a card lists: distances of samples, and copies
LOSSES = ("val/elbo_bits_per_dim", "val/reconstruction_nats", "psnr", "ssim")


class License(NamedTuple):
    """A license: its id on the Hub, and a sentence."""

    id: str
    text: str


LICENSES = {
    "DrawnCatsDataModule": License("mit", "drawn by this project's program (MIT)"),
    "AFHQCatDataModule": License("cc-by-nc-4.0", "AFHQ (Choi et al., 2020): CC BY-NC 4.0, for non-commercial use only"),
    "CatFacesDataModule": License("other", "public cat faces: the license of the photographs is mixed or unclear"),
}


def license_of(data: dict[str, Any], given: str | None) -> License:
    """Return the license of a run's data: the given id of the Hub, or that of a public data set.

    Raises UserError where another license is given for a public data set, or an id that the Hub would not take.
    """
    known = LICENSES.get(data["_target_"].rpartition(".")[2])
    if known and given not in (None, known.id):
        raise UserError(f"license={given}: the images that it was trained on are {known.text}; leave it out")
    if given and not given.replace("-", "").replace(".", "").isalnum():
        raise UserError(f"license={given}: give an id of the Hub: mit, cc-by-4.0, cc0-1.0, ... or other")
    own = License(given or "unknown", f"own images: {given or 'nobody has said yet under which license'}")
    return known or own


def measured(run: LoadedRun) -> dict[str, Any]:
    """Return the metrics of a model with their numbers of samples: of src.evaluate by its own images, or of training.

    An exported folder keeps its own.
    """
    if "export" in run.content:
        return dict(run.content["export"]["metrics"])
    try:
        values = json.loads((run.folder / "metrics.json").read_text())
    except (OSError, ValueError):
        values = {}
    # An evaluation of another checkpoint, or by other images than the run's, says nothing about this model's training.
    if not values.get("own_data") or values["images_seen"] != run.content["images_seen"]:
        states = run.content.get("callbacks", {})
        values = next((state["logged"] for name, state in states.items() if name.startswith("Checkpoints")), {})
        options = (read_config(run.folder).get("callbacks") or {}).get("evaluation") or {}
        values = values | {name: options[name] for name in ("num_images", "reference") if name in options}
    wanted = {name: value for name, value in values.items() if name.startswith(LIKE_SAMPLES) or name in LOSSES}
    kept = {name: value for name, value in wanted.items() if isinstance(value, int | float)}
    return kept | {name: values[name] for name in ("num_images", "reference") if kept and name in values}


def write_card(
    path: Path, run: LoadedRun, facts: dict[str, Any], metrics: dict[str, Any], license: License, files: list[str]
) -> None:
    """Write the card. facts: name, model, image_size, latent_dim, images_seen. files: the others of the folder."""
    numbers = {name: value for name, value in metrics.items() if name not in ("num_images", "reference")}
    data = {key: value for key, value in run.config["data"].items() if key != "_target_"}
    settings = {"model": run.config["model"], "data": data, "seed": run.config["seed"]}
    reference, task = metrics.get("reference", "train"), "unconditional-image-generation"
    # Where the folder becomes a Space, its app.
    space: dict[str, Any] = {"sdk": "gradio", "app_file": "app.py"} if "app.py" in files else {}
    card = ModelCard.from_template(
        ModelCardData(
            license=license.id,
            library_name="onnx" if "decoder.onnx" in files else "safetensors",
            pipeline_tag=task,
            tags=["cats", "image-generation", facts["model"].lower()],
            model_name=facts["name"],
            eval_results=[
                EvalResult(task, "images", f"{reference} images", metric_type=name, metric_value=value)
                for name, value in numbers.items()
            ],
            **space,
        ),
        template_path=str(Path(__file__).with_name("card.md")),
        **facts,
        data_kind=run.config["data"]["_target_"].rpartition(".")[2],
        metrics=numbers,
        num_samples=metrics.get("num_images"),
        reference=reference,
        files=files,
        settings=yaml.safe_dump(settings, sort_keys=False, width=120),
    )
    card.save(path)
