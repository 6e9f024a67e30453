"""From three finished runs to one HTML file with everything in it."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from src.core.image_files import animation_bytes, tile, to_pillow
from src.data.datamodule import ImageDataModule
from src.evaluation.evaluator import fit_prior
from src.evaluation.latent_space import closed, decode, encode, linear, spherical
from src.metrics.features import EfficientNetLite0, FeatureNetwork
from src.models.autoencoder import EncodingModel
from src.models.base import GenerativeModel
from src.models.checkpoint.loading import build, load_model, read_checkpoint
from src.reports.html import data_uri, template
from src.reports.story import figures
from src.reports.story.measure import Judgement, Measured, Yardstick, measure
from src.reports.story.training import Part

NAMES = {"autoencoder": "Autoencoder", "vae": "VAE", "gan": "GAN"}
COLORS = {"autoencoder": figures.AUTOENCODER, "vae": figures.VAE, "gan": figures.GAN}
NUM_TRAINING = 2_000  # training images that are encoded and in which the nearest is looked for
COLUMNS, SAMPLES = 6, 36
PATHS, STEPS, STOPS, FRAMES = 4, 7, 4, 14


@dataclass(frozen=True)
class Run:
    """A trained model and what its run folder tells."""

    model: GenerativeModel
    folder: Path
    command: str
    seconds: float
    config: dict[str, Any]

    @property
    def parameters(self) -> int:
        """Of all its networks, averages of weights not counted twice."""
        return sum(value.numel() for value in self.model.parameters() if value.requires_grad)


def read_run(part: Part) -> Run:
    content = read_checkpoint(part.checkpoint)
    summary = json.loads((part.folder / "summary.json").read_text())
    return Run(load_model(content), part.folder, part.command, summary["wall_time_seconds"], content["config"])


def write_page(path: Path, parts: Mapping[str, Part], num_images: int, seed: int) -> Path:
    """The page of three finished runs, whose data is that of the first; returns its path."""
    runs = {name: read_run(part) for name, part in parts.items()}
    data = build(runs["autoencoder"].config["data"], "data", ImageDataModule)
    print(f"measuring on {data.source.description}", flush=True)
    path.write_text(render(runs, data, EfficientNetLite0(), num_images, seed), encoding="utf-8")
    return path


def render(runs: Mapping[str, Run], data: ImageDataModule, network: FeatureNetwork, num_images: int, seed: int) -> str:
    """The HTML; runs: autoencoder, vae and gan. Of held-out images there must be some."""
    torch.manual_seed(seed)
    everything = data.images("train")
    training, held_out = everything.select(slice(NUM_TRAINING)), data.images("val")[:num_images]
    yardstick = Yardstick(network, training)
    real = yardstick.judge(held_out)
    encoded = training[:]
    for run in runs.values():
        fit_prior(run.model, data)
    measured = {name: measure(run.model, encoded, held_out, yardstick, seed) for name, run in runs.items()}
    return template(__file__).render(
        runs=runs,
        measured=measured,
        names=NAMES,
        real=real,
        training=training,
        num_training=len(everything),
        num_held_out=len(data.images("val")),
        num_images=len(held_out),
        description=data.source.description,
        latent_dim=runs["vae"].model.latent_dim,
        beta=runs["vae"].config["model"]["beta"],
        loss_target=runs["gan"].config["model"]["adversarial_loss"]["_target_"],
        image=images_of(runs, measured, held_out, seed),
        figure=figures_of(runs, measured, real),
    )


def images_of(
    runs: Mapping[str, Run], measured: Mapping[str, Measured], held_out: Tensor, seed: int
) -> dict[str, Markup]:
    """All grids of the page as data URIs."""
    shown = held_out[: 2 * COLUMNS]
    found = {"real": grid(shown, COLUMNS)}
    for name, result in measured.items():
        found[f"{name}_samples"] = grid(result.samples[:SAMPLES], COLUMNS)
        found[f"{name}_first_samples"] = grid(result.samples[: 2 * COLUMNS], COLUMNS)
        if result.encoded:
            restored = result.encoded.reconstructions[: 2 * COLUMNS]
            rows = [row for pair in zip(shown.split(COLUMNS), restored.split(COLUMNS), strict=True) for row in pair]
            found[f"{name}_reconstructions"] = grid(torch.cat(rows), COLUMNS)
            found[f"{name}_mixture"] = grid(result.encoded.mixture_samples[:SAMPLES], COLUMNS)
    for name, run in runs.items():
        still, moving = interpolations(run.model, held_out, seed)
        found[f"{name}_path"], found[f"{name}_moving"] = grid(still, STEPS), moving
    return found


def interpolations(model: GenerativeModel, held_out: Tensor, seed: int) -> tuple[Tensor, Markup]:
    """Rows of images on straight lines between codes of held-out images, or on great circles between samples of a
    model that has no encoder; and the same moving, from stop to stop and back."""
    path, codes = spherical, model.sample_prior(PATHS * STOPS, torch.Generator().manual_seed(seed))
    if isinstance(model, EncodingModel):
        some = held_out[: PATHS * STOPS]
        path, codes = linear, encode(model, some).repeat(PATHS * STOPS, 1)[: PATHS * STOPS]
    stops = codes.unflatten(0, (STOPS, PATHS))
    still = decode(model, path(stops[0], stops[1], STEPS)).flatten(0, 1)
    frames = [tile(decode(model, frame), PATHS) for frame in closed(stops, path, FRAMES)]
    return still, data_uri("image/webp", animation_bytes(frames, ".webp"))


def figures_of(
    runs: Mapping[str, Run], measured: Mapping[str, Measured], real: Judgement
) -> dict[str, dict[str, Markup]]:
    groups = {"held-out images": (real.distances, figures.REAL)}
    for name, result in measured.items():
        if result.encoded:
            groups[f"{NAMES[name]}:\nreconstructions"] = (result.encoded.judgement.distances, COLORS[name])
        groups[f"{NAMES[name]}:\ncodes of N(0, I)"] = (result.judgement.distances, COLORS[name])
        if result.encoded:
            groups[f"{NAMES[name]}:\ncodes of a mixture"] = (result.encoded.mixture_judgement.distances, COLORS[name])
    codes = {NAMES[name]: (result.encoded.codes, COLORS[name]) for name, result in measured.items() if result.encoded}
    drawn = {
        "distances": figures.themed(lambda: figures.distances(groups)),
        "plane": figures.themed(lambda: figures.codes_in_a_plane(codes)),
        "norms": figures.themed(lambda: figures.code_norms(codes)),
        "competition": figures.themed(lambda: figures.competition(runs["gan"].folder / "metrics.csv")),
    }
    return {
        name: {theme: data_uri("image/png", content) for theme, content in themes.items()}
        for name, themes in drawn.items()
    }


def grid(images: Tensor, columns: int) -> Markup:
    with io.BytesIO() as file:
        to_pillow(tile(images, columns)).save(file, "WEBP", quality=90, method=6)
        return data_uri("image/webp", file.getvalue())
