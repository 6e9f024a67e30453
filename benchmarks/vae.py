"""Tables of VAEs, by likelihood and by prior: `python -m benchmarks.vae data=folder data.root=cats.zip`.

likelihoods        four likelihoods on the same network and as many images, twenty minutes on one core each; every
                   one sampled from N(0, I) and from the mixture. Images are in [-1, 1], where variance 4 is what
                   papers whose images are in [0, 1] call unit variance
vae_gan            the best of them with a discriminator, on as many images
disentanglement    beta 4 and beta 1 on drawn cats, three seeds each, three minutes on one core a run

Rows that are done stay done, and one that was interrupted goes on: start the same command again.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.runs import summary_of

ROWS = {
    "optimal variance": ["experiment=vae_cat_faces"],
    "variance 1": ["experiment=vae_cat_faces", "model/likelihood=gaussian_fixed"],
    "variance 4": ["experiment=vae_cat_faces", "model/likelihood=gaussian_fixed", "model.likelihood.variance.value=4"],
    "Bernoulli": ["experiment=vae_cat_faces", "model/likelihood=bernoulli"],
    "VAE-GAN": ["experiment=vae_gan_cat_faces"],
    "beta 4": ["experiment=vae_beta4_drawn_cats"],
    "beta 1": ["experiment=vae_beta4_drawn_cats", "model.beta=1"],
}
TABLES = {
    "likelihoods": (["optimal variance", "variance 1", "variance 4", "Bernoulli"], [0]),
    "vae_gan": (["optimal variance", "VAE-GAN"], [0]),
    "disentanglement": (["beta 4", "beta 1"], [0, 1, 2]),
}
OF_IMAGES = "fd_lite0 fd_lite0_mixture fd_lite0_reconstruction psnr ssim kl_nats active_units"
MEASURES = {
    "likelihoods": OF_IMAGES.split(),
    "vae_gan": OF_IMAGES.split(),
    "disentanglement": ["mig", "dci_disentanglement", "dci_completeness", "dci_informativeness", "kl_nats"],
}


def measures_of(folder: Path, overrides: list[str], num_images: int) -> dict[str, Any] | None:
    """Return the metrics of a folder's run, which is trained and evaluated if it is not yet; None if that fails."""
    training = summary_of(folder, overrides)
    if training is None:
        return None
    report = folder / "metrics.json"
    if not report.exists():
        checkpoint = f"checkpoint={folder}/checkpoints/last.safetensors"
        command = [sys.executable, "-m", "src.evaluate", checkpoint, f"num_images={num_images}"]
        if subprocess.run(command, check=False).returncode:
            return None
    return json.loads(report.read_text()) | {"training": training}


def row_of(name: str, measures: list[str], reports: list[dict[str, Any]]) -> str:
    """Return a line of the table; for several seeds the mean, and the lowest and highest."""
    cells = []
    for measure in measures:
        values = [report[measure] for report in reports]
        spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.4g}{spread}")
    seconds = statistics.mean(report["training"]["wall_time_seconds"] for report in reports)
    return f"| {' | '.join([name, *cells])} | {reports[0]['images_seen']:,} | {seconds:.0f} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--folder", type=Path, default=Path("outputs/vae"), help="of the runs, one each")
    parser.add_argument("--num-images", type=int, default=5_000, help="samples of an evaluation")
    parser.add_argument("--drawn", nargs="*", default=[], help="overrides of the runs on drawn cats")
    parser.add_argument("overrides", nargs="*", help="of the runs on real cats: data=folder data.root=cats.zip")
    options = parser.parse_intermixed_args(arguments)
    for table in options.tables:
        names, seeds = TABLES[table]
        lines = [f"| {' | '.join([table, *MEASURES[table], 'images', 'wall time, s'])} |"]
        lines.append("|---" * (len(MEASURES[table]) + 3) + "|")
        for name in names:
            given = options.drawn if table == "disentanglement" else options.overrides
            folders = [options.folder.absolute() / f"{name.replace(' ', '_')}-seed{seed}" for seed in seeds]
            reports = [
                measures_of(folder, [*ROWS[name], f"seed={seed}", *given], options.num_images)
                for folder, seed in zip(folders, seeds, strict=True)
            ]
            done = [report for report in reports if report]
            lines.append(row_of(name, MEASURES[table], done) if done else f"| {name} | failed |")
        print("\n".join(["", *lines]), flush=True)


if __name__ == "__main__":
    main()
