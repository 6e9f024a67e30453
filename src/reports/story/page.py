"""The page of a story: three finished runs in one HTML file that needs no other."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from src.core.films import film_bytes
from src.core.images import tile, to_pillow
from src.core.run_folder import CHECKPOINTS, LAST, SUMMARY
from src.data.datamodule import ImageDataModule
from src.evaluation.evaluator import Evaluator
from src.evaluation.from_checkpoint import LoadedRun, load_run
from src.evaluation.latent_space import closed_path, decode, encode, linear, spherical
from src.metrics.features import EfficientNetLite0, FeatureNetwork
from src.models.autoencoder import EncodingModel
from src.models.base import GenerativeModel
from src.reports.comparison.runs import RunRecord, read_run
from src.reports.html import data_uri, grid_uri, image_uri, template
from src.reports.story.figures import NAMES, draw_figures
from src.reports.story.measure import FeatureDistance, MeasuredModel, measure
from src.reports.story.training import COMMAND

NUM_TRAINING = 2_000  # training images that are encoded and among which the nearest are looked for
COLUMNS, SAMPLES = 6, 36
PATHS, STEPS, STOPS, FRAMES = 4, 7, 4, 14
TIMES = 6  # at which the GAN's growth is shown


def write_page(folder: Path, names: Sequence[str], num_images: int, seed: int) -> Path:
    """Write index.html beside the folders of finished runs, whose data is that of the first; return its path."""
    runs = {name: load_run(folder / name / CHECKPOINTS / LAST, "cpu") for name in names}
    data = runs["autoencoder"].data()
    print(f"measuring on {data.source.description}", flush=True)
    page = folder / "index.html"
    page.write_text(render(runs, data, EfficientNetLite0(), num_images, seed), encoding="utf-8")
    return page


def render(
    runs: Mapping[str, LoadedRun], data: ImageDataModule, network: FeatureNetwork, num_images: int, seed: int
) -> str:
    """Return the HTML of the runs autoencoder, vae, gan and perhaps more VAEs, which differ from vae in beta.

    num_images: the most held-out images that are measured.
    """
    torch.manual_seed(seed)
    training, held_out = data.images("train")[:NUM_TRAINING], data.images("val", num_images)[:]
    distance = FeatureDistance(network, training)
    real = distance.measure(held_out)
    options: Any = {"seed": seed, "max_reference_images": num_images}
    evaluators = {name: Evaluator(run.model, data, **options) for name, run in runs.items()}
    measured = {name: measure(each, training, held_out, distance) for name, each in evaluators.items()}
    seconds = {name: json.loads((run.folder / SUMMARY).read_text())["wall_time_seconds"] for name, run in runs.items()}
    gan = read_run(runs["gan"].folder, "")
    return template(__file__).render(
        runs=runs,
        commands=[(run.folder / COMMAND).read_text().strip() for run in runs.values()],
        seconds=seconds,
        parameters={
            name: sum(weights.numel() for weights in run.model.parameters() if weights.requires_grad)
            for name, run in runs.items()
        },
        measured=measured,
        names=NAMES,
        betas=sorted((run.config["model"]["beta"], name) for name, run in runs.items() if name.startswith("vae")),
        growth=growth(gan, data.image_size),
        real=real,
        training=training,
        data=data,
        num_images=len(held_out),
        image=draw_grids(runs, measured, held_out, seed),
        figure=draw_figures({name: measured[name] for name in NAMES}, real, gan.curves),
    )


def draw_grids(
    runs: Mapping[str, LoadedRun], measured: Mapping[str, MeasuredModel], held_out: Tensor, seed: int
) -> dict[str, Markup]:
    """Return all grids of the page as data URIs, by name."""
    shown = held_out[: 2 * COLUMNS]
    grids = {"real": grid(shown, COLUMNS)}
    for name, result in measured.items():
        grids[f"{name}_samples"] = grid(result.samples.images[:SAMPLES], COLUMNS)
        grids[f"{name}_first_samples"] = grid(result.samples.images[: 2 * COLUMNS], COLUMNS)
        if result.reconstructions and result.mixture_samples:
            rows = zip(shown.split(COLUMNS), result.reconstructions.images.split(COLUMNS), strict=False)
            grids[f"{name}_reconstructions"] = grid(torch.cat([torch.cat(pair) for pair in rows]), COLUMNS)
            grids[f"{name}_mixture"] = grid(result.mixture_samples.images[:SAMPLES], COLUMNS)
        if name in NAMES:
            grids[f"{name}_path"], grids[f"{name}_moving"] = draw_interpolations(runs[name].model, held_out, seed)
    return grids


def growth(run: RunRecord, image_size: int) -> list[tuple[int, Markup]]:
    """Return images that a run drew from the same noise, by the images seen: at first, and ever less often later."""
    files = run.images("samples")
    if not files:
        return []
    first, *later = files
    wanted: Any = np.geomspace(later[0], later[-1], TIMES - 1) if later else []
    times = dict.fromkeys([first, *(min(later, key=lambda time: abs(time - target)) for target in wanted)])
    return [(time, grid_uri(files[time], image_size, 3, 4)) for time in times]


def draw_interpolations(model: GenerativeModel, held_out: Tensor, seed: int) -> tuple[Markup, Markup]:
    """Return rows of images on straight lines between latents of held-out images, and the same as an animation.

    A model without encoder has great circles between samples. The animation goes from stop to stop and back.
    """
    if isinstance(model, EncodingModel):
        some = held_out[: PATHS * STOPS]
        path, latents = linear, encode(model, some).repeat(PATHS * STOPS, 1)[: PATHS * STOPS]
    else:
        path, latents = spherical, model.sample_prior(PATHS * STOPS, torch.Generator().manual_seed(seed))
    stops = latents.unflatten(0, (STOPS, PATHS))
    still = decode(model, path(stops[0], stops[1], STEPS)).flatten(0, 1)
    frames = [tile(decode(model, frame), PATHS) for frame in closed_path(stops, path, FRAMES)]
    return grid(still, STEPS), data_uri("image/webp", film_bytes(frames, "webp"))


def grid(images: Tensor, columns: int) -> Markup:
    """Return a grid of images as a data URI."""
    return image_uri(to_pillow(tile(images, columns)))
