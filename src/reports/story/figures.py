"""The figures of the page, each drawn for light and for dark screens."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from src.evaluation.latent_space import principal_directions

THEMES = {"light": ("#1d2329", "#d5d9dd"), "dark": ("#e4e7ea", "#474d54")}  # ink, faint ink
REAL, AUTOENCODER, VAE, GAN = "#8a8f96", "#d55e00", "#1c8fd6", "#0a9e78"
DOTS_PER_INCH = 180
POINTS_IN_A_PLANE = 500
Labeled = dict[str, tuple[Tensor, str]]  # values and a color by name


def themed(draw: Callable[[], Figure]) -> dict[str, bytes]:
    """Return PNGs of a figure on a transparent background: {"light": ..., "dark": ...}."""
    files = {}
    for theme, (ink, faint) in THEMES.items():
        style: Any = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
        style |= {"axes.edgecolor": faint, "grid.color": faint, "axes.facecolor": "none"}
        style |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
        style |= {"font.size": 11, "axes.titlesize": 11, "legend.fontsize": 10}
        with rc_context(style), io.BytesIO() as file:
            draw().savefig(file, dpi=DOTS_PER_INCH, transparent=True)
            files[theme] = file.getvalue()
    return files


def distances(groups: Labeled) -> Figure:
    """Draw a violin and its median for each group of distances, (N,) each, the first on top."""
    figure = Figure(figsize=(6.2, 0.62 * len(groups) + 0.9), layout="constrained")
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
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    axes.set_xlabel("distance to the nearest training image, in feature space")
    return figure


def latents_in_a_plane(latents: Labeled) -> Figure:
    """Draw a panel for each model: latents and as many draws from N(0, I), on the latents' two principal directions.

    latents: (N, D) each.
    """
    figure = Figure(figsize=(6.2, 3.5), layout="constrained")
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
    return figure


def latent_norms(latents: Labeled) -> Figure:
    """Draw histograms of the distances of latents from the origin, and of N(0, I), on a logarithmic axis.

    latents: (N, D) each.
    """
    figure = Figure(figsize=(6.2, 2.6), layout="constrained")
    axes = figure.subplots()
    dim = next(iter(latents.values()))[0].shape[1]
    noise = torch.randn(5000, dim, generator=torch.Generator().manual_seed(0))
    norms = {name: (values.norm(dim=1), color) for name, (values, color) in latents.items()}
    norms["N(0, I)"] = (noise.norm(dim=1), REAL)
    everything = torch.cat([values for values, _ in norms.values()]).clamp(min=1e-3)
    bins = torch.logspace(everything.min().log10().item(), everything.max().log10().item(), 60)
    for name, (values, color) in norms.items():
        weights = torch.full_like(values, 1 / len(values)).numpy()
        axes.hist(values.numpy(), bins=bins.tolist(), weights=weights, color=color, alpha=0.6, label=name)
    axes.set_xscale("log")
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if bins[0] <= tick <= bins[-1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("length of the latent vector")
    axes.legend()
    return figure


def competition(metrics_csv: Path) -> Figure:
    """Draw the losses of both networks and the discriminator's mean logits over the images seen."""
    with metrics_csv.open() as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(6.2, 4.4), layout="constrained")
    losses, logits = figure.subplots(2, 1, sharex=True)
    for axes, column, label, color in (
        (losses, "discriminator_loss", "discriminator", REAL),
        (losses, "generator_loss", "generator", GAN),
        (logits, "real_logits", "real images", REAL),
        (logits, "fake_logits", "generated images", GAN),
    ):
        points = [(float(row["images_seen"]), float(row[key])) for row in rows if row.get(key := f"train/{column}")]
        axes.plot([x / 1000 for x, _ in points], [y for _, y in points], color=color, label=label, linewidth=1.5)
    losses.set_ylabel("loss")
    logits.set_ylabel("mean logit")
    logits.set_xlabel("images seen, in thousands")
    for axes in (losses, logits):
        axes.grid(axis="y", linewidth=0.6)
        axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    return figure
