"""An ablation of the GAN recipe: `python -m benchmarks.ablation data=folder data.root=cats.zip`.

Every row is `experiment=gan_cpu` with one override, trained on equally many images, one row after the other. Rows
that are done stay done, and one that was interrupted goes on: start the same command again.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.runs import summary_of

ROWS = {
    "gan_cpu": "",
    "no self-modulation": "model.generator.self_modulation=false",
    "transposed convolutions only": "model.generator.smooth_layers=0",
    "no layer at the full size": "model.generator.full_width=0",
    "non-saturating loss": "model/adversarial_loss=non_saturating",
    "hinge loss": "model/adversarial_loss=hinge",
    "RaLSGAN loss": "model/adversarial_loss=relativistic_average_least_squares",
    "constant penalties": "model/gradient_penalty=r1_r2",
    "R1 only": "model.gradient_penalty.r2_gamma=0",
    "R2 only": "model.gradient_penalty.r1_gamma=0",
    "no penalty": "model/gradient_penalty=none",
    "augmentation, probability 0.3": "model/augmentation=fixed",
    "augmentation, adaptive": "model/augmentation=ada",
    "a shorter average of the generator": "model.ema_rampup=0.05",
    "no average of the generator": "model.ema_halflife_images=0",
    "falling learning rate": (
        "model.learning_rate_factor={_target_:src.core.schedules.Cosine,start:1,end:0.1,over_images:${max_images}}"
    ),
    "R3GAN's networks": "model/networks=r3gan",
}


def row_of(name: str, override: str, summaries: list[dict[str, Any]]) -> str:
    """Return a line of the table; for several seeds the mean, and the lowest and highest."""
    distances = [summary["final"]["fd_lite0"] for summary in summaries]
    spread = f" ({min(distances):.1f} to {max(distances):.1f})" if len(distances) > 1 else ""
    parameters = summaries[0]["parameters"]
    sizes = " / ".join(f"{parameters[part] / 1e6:.2f}" for part in ("generator", "discriminator"))
    speed = statistics.mean(summary["images_per_second"] for summary in summaries)
    return (
        f"| {name} | {f'`{override}`' if override else ''} | {statistics.mean(distances):.1f}{spread} "
        f"| {speed:.0f} | {sizes} |"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000, help="each row trains on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/ablation"), help="of the runs, one each")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("overrides", nargs="*", help="of every row: data=folder data.root=cats.zip")
    options = parser.parse_intermixed_args(arguments)
    table = ["| row | override | fd_lite0 | images/s | parameters, millions (G / D) |", "|---|---|---|---|---|"]
    for name in options.rows:
        override = ROWS[name]
        given = [
            "experiment=gan_cpu",
            f"max_images={options.images}",
            *options.overrides,
            *([override] if override else []),
        ]
        label = "".join(letter if letter.isalnum() else "_" for letter in name.lower())
        folders = [options.folder.absolute() / f"{label}-{options.images}-seed{seed}" for seed in options.seeds]
        runs = [
            summary_of(folder, [*given, f"seed={seed}"]) for folder, seed in zip(folders, options.seeds, strict=True)
        ]
        summaries = [run for run in runs if run]
        table.append(row_of(name, override, summaries) if summaries else f"| {name} | `{override}` | failed | | |")
    print("\n".join(["", *table]))


if __name__ == "__main__":
    main()
