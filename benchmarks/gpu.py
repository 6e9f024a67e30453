"""The GAN recipes on one CUDA card: `make bench-gpu`, under ten minutes, one table.

First what each switch of `gan_cat_faces` gains, one added to the other, from float32 run eagerly to bf16 and compiled;
then `gan_cat_faces` against `gan_relativistic_2018`, each for the same minutes of training, from its first step on.
What follows the options are overrides of every run: data=folder data.root=cats.zip, and trainer=cpu where there is no
card. Without a card the rows of memory, utilization and compilation are left out.
"""

import argparse
import contextlib
import gc
import io
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import measured, watched_card
from src.config.cli import composed
from src.training.fit import fit

BASELINE = "float32, eager"
# Of gan_cat_faces, which has them all; each row has those above it too.
SWITCHES = {
    BASELINE: "",
    "+ channels last": "model.channels_last=true",
    "+ fused optimizers": "model.generator_optimizer.fused=true model.discriminator_optimizer.fused=true",
    "+ bf16": "trainer.precision=bf16-mixed",
    "+ compiled networks": "model.compile_networks=true",
}
ALL_OFF = [
    "model.channels_last=false",
    "model.generator_optimizer.fused=false",
    "model.discriminator_optimizer.fused=false",
    "trainer.precision=32-true",
    "model.compile_networks=false",
]
COLUMNS = ("run", "images/s", "gain", "GiB", "utilization", "training s", "images", "fd_lite0")


def run(overrides: list[str], seconds: float, after_warm_up: bool) -> dict[str, Any]:
    """Train for so many seconds, evaluate once at the end if a metric is chosen, and return what was measured."""
    measured.clear()
    gc.collect()
    torch.compiler.reset()
    with tempfile.TemporaryDirectory() as folder:
        config = composed("train", [*overrides, "callbacks.evaluation.every_images=1_000_000_000", f"run_dir={folder}"])
        run_length, *others = config["callbacks"].items()
        clock = {"_target_": "benchmarks.clock.Clock", "seconds": seconds, "after_warm_up": after_warm_up}
        config["callbacks"] = dict([run_length, ("clock", clock), *others])
        with watched_card(), contextlib.redirect_stdout(io.StringIO()):
            fit(config)
        final = json.loads((Path(folder) / "summary.json").read_text())["final"]
    return measured | {name: value for name, value in final.items() if not name.startswith("train/")}


def line(name: str, row: dict[str, Any], baseline: float | None) -> list[str]:
    """Return a row of the table as text."""
    shown = {
        "images/s": f"{row['images_per_s']:.0f}",
        "gain": f"{row['images_per_s'] / baseline:.2f}x" if baseline else "",
        "GiB": f"{row['gib']:.1f}" if "gib" in row else "",
        "utilization": f"{row['utilization']:.0f}%" if "utilization" in row else "",
        "training s": f"{row['training_s']:.0f}",
        "images": f"{row['images']:,}",
        "fd_lite0": f"{row['fd_lite0']:.1f}" if "fd_lite0" in row else "",
    }
    return [name, *shown.values()]


def main(arguments: list[str] | None = None) -> list[list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.5, help="of training for each recipe")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each switch, after its warm-up")
    parser.add_argument(
        "--float32", action="store_true", help="gan_cat_faces once more, all switches off, as many images"
    )
    parser.add_argument("overrides", nargs="*", help="of every run: data=folder data.root=cats.zip")
    options = parser.parse_intermixed_args(arguments)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    trainer = "trainer=gpu" if card else "trainer=cpu"
    ours = ["experiment=gan_cat_faces", trainer]
    theirs = [
        "experiment=gan_relativistic_2018",
        trainer,
        "callbacks.evaluation.num_images=10_000",
        "max_images=1_000_000_000",
    ]
    rows: list[list[str]] = []

    added: list[str] = []
    switches = [(name, switch) for name, switch in SWITCHES.items() if card or "compile" not in switch]
    baseline = None
    for name, switch in switches:
        added += switch.split()
        overrides = [*ours, *ALL_OFF, *added, "metrics=none", "max_images=1_000_000_000", *options.overrides]
        fastest = run(overrides, options.seconds, after_warm_up=True)
        baseline = baseline or fastest["images_per_s"]
        rows.append(line(name, fastest, baseline))
        print(f"{name}: {fastest['images_per_s']:.0f} images/s", flush=True)

    # The schedules are to end when the time does.
    seconds = 60 * options.minutes
    warm = fastest["warm_up_images"]
    max_images = max(int(warm + fastest["images_per_s"] * (seconds - fastest["warm_up_s"])), 2 * warm)
    given = [*([] if card else ALL_OFF), *added, f"max_images={max_images}"]
    recipes = [("gan_cat_faces", [*ours, *given], seconds), ("gan_relativistic_2018", theirs, seconds)]
    if options.float32:
        recipes.append(("gan_cat_faces, float32, eager", [*ours, *ALL_OFF, f"max_images={max_images}"], math.inf))
    for name, overrides, limit in recipes:
        rows.append(line(name, run([*overrides, *options.overrides], limit, after_warm_up=False), None))
        print(f"{name}: fd_lite0 {rows[-1][-1]}", flush=True)

    print(f"\n{card or 'CPU'}, torch {torch.__version__}; {' '.join(options.overrides)}\n")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return rows


if __name__ == "__main__":
    main()
