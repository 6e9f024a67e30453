"""The figures of the page, each drawn for light and for dark screens."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from src.evaluation.latent_space import principal_directions
from src.reports.comparison.runs import Curve
from src.reports.html import data_uri
from src.reports.story.measure import MeasuredImages, MeasuredModel

NAMES = {"autoencoder": "Autoencoder", "vae": "VAE", "gan": "GAN"}
COLORS = {"autoencoder": "#d55e00", "vae": "#1c8fd6", "gan": "#0a9e78"}
REAL = "#8a8f96"
THEMES = {"light": ("#1d2329", "#d5d9dd"), "dark": ("#e4e7ea", "#474d54")}  # ink, faint ink
POINTS_IN_A_PLANE = 500
T = TypeVar("T")
Labeled = dict[str, tuple[Tensor, str]]  # values and a color by name


def draw_figures(
    measured: Mapping[str, MeasuredModel], real: MeasuredImages, gan_curves: Mapping[str, Curve]
) -> dict[str, dict[str, Markup]]:
    """Return the figures of the page as data URIs of PNGs, by name and theme."""
    groups, latents = {"held-out images": (real.distances, REAL)}, {}
    for name, result in measured.items():
        kinds = {"reconstructions": result.reconstructions, "latents of N(0, I)": result.samples}
        for title, images in (kinds | {"latents of a mixture": result.mixture_samples}).items():
            if images:
                groups[f"{NAMES[name]}:\n{title}"] = images.distances, COLORS[name]
        if result.latents is not None:
            latents[NAMES[name]] = result.latents, COLORS[name]
    return {
        "distances": themed((6.2, 0.62 * len(groups) + 0.9), distances, groups),
        "plane": themed((6.2, 3.5), latents_in_a_plane, latents),
        "norms": themed((6.2, 2.6), latent_norms, latents),
        "competition": themed((6.2, 4.4), competition, gan_curves),
    }


def themed(size: tuple[float, float], draw: Callable[[Figure, T], None], values: T) -> dict[str, Markup]:
    """Draw a figure of a size in inches on a transparent background in the colors of each theme."""
    drawn = {}
    for theme, (ink, faint) in THEMES.items():
        style: Any = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
        style |= {"axes.edgecolor": faint, "grid.color": faint}
        with rc_context(style, Path(__file__).with_suffix(".mplstyle")), io.BytesIO() as file:
            figure = Figure(figsize=size)
            draw(figure, values)
            figure.savefig(file)
            drawn[theme] = data_uri("image/png", file.getvalue())
    return drawn


def distances(figure: Figure, groups: Labeled) -> None:
    """Draw a violin and its median for each group of distances, (N,) each, the first on top."""
    axes = figure.subplots()
    rows = range(len(groups), 0, -1)
    values = [numbers.numpy() for numbers, _ in groups.values()]
    violins: Any = axes.violinplot(values, positions=rows, orientation="horizontal", widths=0.85, showextrema=False)
    for row, body, (numbers, color) in zip(rows, violins["bodies"], groups.values(), strict=True):
        body.set(facecolor=color, alpha=0.55, edgecolor=color)
        median = numbers.median().item()
        axes.plot([median, median], [row - 0.3, row + 0.3], color=color, linewidth=2.5)
        end = (numbers.max().item(), row)
        axes.annotate(f"{median:.3g}", end, xytext=(6, 0), textcoords="offset points", va="center", color=color)
    axes.set_yticks(list(rows), list(groups))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlim(left=0)
    axes.set_xlabel("distance to the nearest training image, in feature space")


def latents_in_a_plane(figure: Figure, latents: Labeled) -> None:
    """Draw a panel for each model: latents (N, D) and as many of N(0, I), on the latents' two principal directions."""
    for axes, (name, (points, color)) in zip(figure.subplots(1, len(latents)), latents.items(), strict=True):
        plane = principal_directions(points, 2).vectors.T
        shown = points[:POINTS_IN_A_PLANE] @ plane
        noise = torch.randn(len(shown), len(plane), generator=torch.Generator().manual_seed(0)) @ plane
        axes.scatter(*shown.T.numpy(), s=7, color=color, alpha=0.5, linewidths=0, label=f"latents, {name}")
        axes.scatter(*noise.T.numpy(), s=7, color=REAL, alpha=0.7, linewidths=0, label="N(0, I)")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel("1st principal direction")
        axes.set_ylabel("2nd")
        legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), markerscale=2, borderaxespad=0.2)
        for handle in legend.legend_handles:
            handle.set_alpha(1)


def latent_norms(figure: Figure, latents: Labeled) -> None:
    """Draw histograms of the lengths of latents, (N, D) each, and of N(0, I), on a logarithmic axis."""
    axes = figure.subplots()
    dim = next(iter(latents.values()))[0].shape[1]
    noise = torch.randn(5000, dim, generator=torch.Generator().manual_seed(0))
    drawn = latents | {"N(0, I)": (noise, REAL)}
    low, high = torch.cat([points.norm(dim=1) for points, _ in drawn.values()]).clamp(min=1e-3).log10().aminmax()
    bins = torch.logspace(low.item(), high.item(), 60).tolist()
    for name, (points, color) in drawn.items():
        values = points.norm(dim=1)
        weights = torch.full_like(values, 1 / len(values)).numpy()
        axes.hist(values.numpy(), bins=bins, weights=weights, color=color, alpha=0.6, label=name)
    axes.set_xscale("log")
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if bins[0] <= tick <= bins[-1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("length of the latent vector")
    axes.legend()


def competition(figure: Figure, curves: Mapping[str, Curve]) -> None:
    """Draw the losses of both networks, and how well the discriminator tells real from generated, over images seen."""
    losses, auroc = figure.subplots(2, 1, sharex=True)
    for axes, column, label, color in (
        (losses, "discriminator_loss", "discriminator", REAL),
        (losses, "generator_loss", "generator", COLORS["gan"]),
        (auroc, "discriminator_auroc", "discriminator", REAL),
    ):
        points = curves.get(f"train/{column}", [])
        axes.plot([x / 1000 for x, _ in points], [y for _, y in points], color=color, label=label, linewidth=1.5)
        axes.grid(axis="y")
    losses.set_ylabel("loss")
    losses.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    auroc.set_ylabel("AUROC")
    auroc.set_ylim(0.45, 1.02)
    auroc.set_xlabel("images seen, in thousands")
