"""This project and others at equal processor seconds on the same images: `make bench-peers ARGS="--images ..."`.

    make bench-peers ARGS="--images cats.zip --dcgan CHECKOUT/dcgan/main.py --pythae ENVIRONMENT/bin/python"

Nothing is fetched: --dcgan is that file of a checkout of pytorch/examples, --pythae the Python of an environment with
pythae and pyyaml; a row whose program is not given is left out. All train on the training part of one split of the
images, on one thread, for --seconds of processor time after their imports and loading, evaluations not counted; what
they draw is compared with the held-out part by `src.evaluate samples=`. Rows that are done stay done.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from src.config.cli import composed
from src.config.validation import instantiate
from src.core.images import to_pillow

METRICS = ("fd_lite0", "fd_lite0_floor", "kd_lite0", "prdc_lite0_precision", "prdc_lite0_recall")
# pytorch/examples' DCGAN as it is, and with this project's batch, learning rates, first beta and average.
DCGAN = {"DCGAN": ("0", []), "DCGAN, our settings": ("10000", ["--batchSize", "16", "--lr", "0.001", "--beta1", "0"])}
PYTHAE = {"pythae's VAE, mixture": "VAE", "pythae's RAE, mixture": "RAE_L2"}
OURS = {
    "gan_cpu": "experiment=gan_cpu",
    "vae_cpu, mixture": "experiment=vae_cpu",
    "vae_gan_cpu, mixture": "experiment=vae_gan_cpu",
}


def data_options(images: str) -> list[str]:
    """Return the options of the images and their one split, which holds out enough for a low floor of the distances."""
    return ["data=folder", f"data.root={images}", "data.val_fraction=0.09"]


def prepare(folder: Path, images: str) -> Path:
    """Write the training images of the split as PNGs, and as one array, unless they are there."""
    target = folder / "images"
    if not (target / "train.npy").exists():
        data = instantiate(composed("train", ["experiment=gan_cpu", *data_options(images)])["data"])
        data.setup()
        pixels = data.train[:]
        (target / "images").mkdir(parents=True, exist_ok=True)  # a class, to torchvision's ImageFolder
        for number, image in enumerate(pixels):
            to_pillow(image).save(target / "images" / f"{number:05d}.png")
        np.save(target / "train.npy", pixels.numpy())
    return target


def run(command: list[str], log: Path) -> str:
    """Run a program on one thread and return what it printed. Raises CalledProcessError."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=log.open("w"))
    with log.open("a") as file:
        file.write(result.stdout)
    result.check_returncode()
    return result.stdout


def images_seen(printed: str) -> int:
    return int(printed.rpartition("images_seen=")[2])


def train(name: str, seed: int, folder: Path, options: argparse.Namespace, images: Path) -> int:
    """Train what a row names, leave samples in folder/samples, and return the images that it has seen."""
    samples, log, count = folder / "samples", folder / "log.txt", str(options.samples)
    amount = [str(options.seconds), str(seed), count]
    if name in DCGAN:
        halflife, settings = DCGAN[name]
        arguments = [options.dcgan, str(images), str(samples), *amount, halflife, *settings]
        return images_seen(run([sys.executable, "-m", "benchmarks.peers.dcgan", *arguments], log))
    if name in PYTHAE:
        arguments = [PYTHAE[name], str(images / "train.npy"), str(samples), *amount]
        return images_seen(run([options.pythae, "-m", "benchmarks.peers.pythae_models", *arguments], log))
    python = [sys.executable, "-m"]
    recipe = [OURS[name], *data_options(options.images), "trainer=cpu", f"seed={seed}", "metrics=none"]
    recipe += [f"budget_cpu_s={options.seconds}", f"run_dir={folder}/run", "resume=last", *options.overrides]
    run([*python, "src.train", *recipe], log)
    run([*python, "src.sample", f"checkpoint={folder}/run", f"num_images={count}", f"output={samples}"], log)
    return json.loads((folder / "run" / "summary.json").read_text())["images_seen"]


def measure(name: str, seed: int, options: argparse.Namespace, images: Path) -> dict[str, Any]:
    """Return a row's metrics, trained and compared with the held-out images unless that was done before."""
    title = re.sub(r"\W+", "_", name)
    folder = options.folder.absolute() / f"{title}-{options.seconds}s-seed{seed}"
    result = folder / "result.json"
    if not result.exists():
        folder.mkdir(parents=True, exist_ok=True)
        seen = train(name, seed, folder, options, images)
        given = [f"samples={folder}/samples", *data_options(options.images), "reference=val"]
        given += ["metrics=[lite0,prdc_lite0]", f"output={folder}"]
        run([sys.executable, "-m", "src.evaluate", *given], folder / "evaluation.txt")
        metrics = json.loads((folder / "metrics.json").read_text())
        result.write_text(json.dumps(metrics | {"images_seen": seen}))
    return json.loads(result.read_text())


def row_of(name: str, results: list[dict[str, Any]]) -> str:
    """Return a line of the table: means, and the standard deviation of several seeds."""
    cells = []
    for metric in ("images_seen", *METRICS):
        values = [result[metric] for result in results if metric in result]
        spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 and metric != "images_seen" else ""
        cells.append(f"{statistics.mean(values):,.4g}{spread}" if values else "")
    return f"| {name} | {len(results)} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder, .zip or .tar of images")
    parser.add_argument("--dcgan", help="main.py of pytorch/examples/dcgan")
    parser.add_argument("--pythae", help="the Python of an environment with pythae")
    parser.add_argument("--seconds", type=int, default=900, help="of processor time for each row")
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/peers"), help="of all that is made")
    parser.add_argument("overrides", nargs="*", help="of this project's rows")
    options = parser.parse_intermixed_args(arguments)
    images = prepare(options.folder.absolute(), options.images)
    rows = [*OURS, *(DCGAN if options.dcgan else ()), *(PYTHAE if options.pythae else ())]
    # Seed by seed, so that a busy hour hits all rows alike.
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    for seed in options.seeds:
        for name in rows:
            results[name].append(measure(name, seed, options, images))
    print("\n| row | seeds | images seen |", " | ".join(METRICS), "|\n|---|---|---|", "---|" * len(METRICS), sep="")
    print(*(row_of(name, found) for name, found in results.items()), sep="\n")


if __name__ == "__main__":
    main()
