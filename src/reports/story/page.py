"""The page of a story: three finished runs in one HTML file that needs no other."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from src.core.images import animation_bytes, tile
from src.data.datamodule import ImageDataModule
from src.evaluation.evaluator import Evaluator
from src.evaluation.from_checkpoint import load_run
from src.evaluation.latent_space import closed_path, decode, encode, linear, spherical
from src.metrics.features import EfficientNetLite0, FeatureNetwork
from src.models.autoencoder import EncodingModel
from src.models.base import GenerativeModel
from src.reports.html import data_uri, image_uri, template
from src.reports.story import figures
from src.reports.story.measure import FeatureDistance, MeasuredImages, MeasuredModel, measure
from src.reports.story.training import Part

NAMES = {"autoencoder": "Autoencoder", "vae": "VAE", "gan": "GAN"}
COLORS = {"autoencoder": figures.AUTOENCODER, "vae": figures.VAE, "gan": figures.GAN}
NUM_TRAINING = 2_000  # training images that are encoded and among which the nearest are looked for
COLUMNS, SAMPLES = 6, 36
PATHS, STEPS, STOPS, FRAMES = 4, 7, 4, 14


@dataclass(frozen=True)
class Run:
    """A trained model, its config and run folder, the command that trained it, and the seconds it took."""

    model: GenerativeModel
    folder: Path
    command: str
    seconds: float
    config: dict[str, Any]

    @property
    def parameters(self) -> int:
        """The number of weights that are trained, in all networks."""
        return sum(value.numel() for value in self.model.parameters() if value.requires_grad)


def write_page(path: Path, parts: Mapping[str, Part], num_images: int, seed: int) -> Path:
    """Write the page of three finished runs, whose data is that of the first, and return its path."""
    loaded = {name: load_run(part.checkpoint, "cpu") for name, part in parts.items()}
    runs = {}
    for name, part in parts.items():
        summary = json.loads((part.folder / "summary.json").read_text())
        seconds, config = summary["wall_time_seconds"], loaded[name].config
        runs[name] = Run(loaded[name].model, part.folder, part.command, seconds, config)
    data = loaded["autoencoder"].data()
    print(f"measuring on {data.source.description}", flush=True)
    path.write_text(render(runs, data, EfficientNetLite0(), num_images, seed), encoding="utf-8")
    return path


def render(runs: Mapping[str, Run], data: ImageDataModule, network: FeatureNetwork, num_images: int, seed: int) -> str:
    """Return the HTML of the runs autoencoder, vae and gan, from at most num_images held-out images."""
    torch.manual_seed(seed)
    training, held_out = data.images("train").select(slice(NUM_TRAINING)), data.images("val")[:num_images]
    distance = FeatureDistance(network, training)
    real = distance.measure(held_out)
    for run in runs.values():
        Evaluator(run.model, data).fit_prior()
    measured = {name: measure(run.model, training[:], held_out, distance, seed) for name, run in runs.items()}
    return template(__file__).render(
        runs=runs,
        measured=measured,
        names=NAMES,
        real=real,
        training=training,
        data=data,
        num_images=len(held_out),
        image=draw_grids(runs, measured, held_out, seed),
        figure=draw_figures(runs, measured, real),
    )


def draw_grids(
    runs: Mapping[str, Run], measured: Mapping[str, MeasuredModel], held_out: Tensor, seed: int
) -> dict[str, Markup]:
    """Return all grids of the page as data URIs, by name."""
    shown = held_out[: 2 * COLUMNS]
    grids = {"real": grid(shown, COLUMNS)}
    for name, result in measured.items():
        grids[f"{name}_samples"] = grid(result.samples.images[:SAMPLES], COLUMNS)
        grids[f"{name}_first_samples"] = grid(result.samples.images[: 2 * COLUMNS], COLUMNS)
        if result.reconstructions and result.mixture_samples:
            restored = result.reconstructions.images[: 2 * COLUMNS]
            rows = [row for pair in zip(shown.split(COLUMNS), restored.split(COLUMNS), strict=True) for row in pair]
            grids[f"{name}_reconstructions"] = grid(torch.cat(rows), COLUMNS)
            grids[f"{name}_mixture"] = grid(result.mixture_samples.images[:SAMPLES], COLUMNS)
        grids[f"{name}_path"], grids[f"{name}_moving"] = draw_interpolations(runs[name].model, held_out, seed)
    return grids


def draw_interpolations(model: GenerativeModel, held_out: Tensor, seed: int) -> tuple[Markup, Markup]:
    """Return rows of images on straight lines between latents of held-out images, and the same as an animation.

    A model without encoder has great circles between samples. The animation goes from stop to stop and back.
    """
    path, latents = spherical, model.sample_prior(PATHS * STOPS, torch.Generator().manual_seed(seed))
    if isinstance(model, EncodingModel):
        some = held_out[: PATHS * STOPS]
        path, latents = linear, encode(model, some).repeat(PATHS * STOPS, 1)[: PATHS * STOPS]
    stops = latents.unflatten(0, (STOPS, PATHS))
    still = decode(model, path(stops[0], stops[1], STEPS)).flatten(0, 1)
    frames = [tile(decode(model, frame), PATHS) for frame in closed_path(stops, path, FRAMES)]
    return grid(still, STEPS), data_uri("image/webp", animation_bytes(frames, ".webp"))


def draw_figures(
    runs: Mapping[str, Run], measured: Mapping[str, MeasuredModel], real: MeasuredImages
) -> dict[str, dict[str, Markup]]:
    """Return the figures of the page as data URIs, by name and theme."""
    groups, latents = {"held-out images": (real.distances, figures.REAL)}, {}
    for name, result in measured.items():
        for title, images in {
            "reconstructions": result.reconstructions,
            "latents of N(0, I)": result.samples,
            "latents of a mixture": result.mixture_samples,
        }.items():
            if images:
                groups[f"{NAMES[name]}:\n{title}"] = images.distances, COLORS[name]
        if result.latents is not None:
            latents[NAMES[name]] = result.latents, COLORS[name]
    drawings = {
        "distances": lambda: figures.distances(groups),
        "plane": lambda: figures.latents_in_a_plane(latents),
        "norms": lambda: figures.latent_norms(latents),
        "competition": lambda: figures.competition(runs["gan"].folder / "metrics.csv"),
    }
    return {
        name: {theme: data_uri("image/png", content) for theme, content in figures.themed(draw).items()}
        for name, draw in drawings.items()
    }


def grid(images: Tensor, columns: int) -> Markup:
    """Return a grid of images as a data URI."""
    return image_uri(tile(images, columns), effort=6)
