"""The overhead of training through src.train over a bare PyTorch loop: `make bench`.

Both train the same networks with the same losses, optimizers and images, in one process and in turn: bare loop,
src.train's fit, bare loop, ... The figure is the median of the paired ratios of seconds per image, from the first
step's start to the last step's end, with all callbacks, logging and progress of a run; what is due only at an
interval (evaluation, grids, checkpoints) comes after the last step here and is not counted.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import Callback, Trainer
from torch import Tensor

from src.config.cli import composed
from src.core.images import from_uint8
from src.models.base import GenerativeModel
from src.models.ema import update_ema
from src.models.gan import GAN
from src.models.vae import VAE
from src.training.fit import fit


def bare_vae(model: VAE) -> Callable[[Tensor, int], None]:
    """Return a VAE's training step as one writes it without a framework."""
    optimizer = model.optimizer(model.parameters())

    def step(images: Tensor, images_seen: int) -> None:
        losses = model.losses(images)
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        optimizer.step()

    return step


def bare_gan(model: GAN) -> Callable[[Tensor, int], None]:
    """Return a GAN's training step as one writes it without a framework."""
    generator, discriminator = model.generator, model.discriminator
    generator_optimizer = model.generator_optimizer(generator.parameters())
    discriminator_optimizer = model.discriminator_optimizer(discriminator.parameters())

    def step(real: Tensor, images_seen: int) -> None:
        generated = generator(torch.randn(len(real), model.latent_dim))
        penalize = model.gradient_penalty.should_run(images_seen // len(real))
        real, fake = real.detach().requires_grad_(penalize), generated.detach().requires_grad_(penalize)
        real_logits, fake_logits = discriminator(real), discriminator(fake)
        loss = model.adversarial_loss.discriminator(real_logits, fake_logits).mean()
        if penalize:
            loss = loss + model.gradient_penalty.total(
                model.gradient_penalty(discriminator, real, fake, real_logits, fake_logits)
            )
        discriminator_optimizer.zero_grad()
        loss.backward()
        discriminator_optimizer.step()

        discriminator.requires_grad_(False)
        with torch.no_grad():
            real_logits = discriminator(real)
        fake_logits = discriminator(generated)
        loss = model.adversarial_loss.generator(real_logits, fake_logits).mean()
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        discriminator.requires_grad_(True)
        update_ema(model.generator_ema, generator, len(real), model.scheduled["ema_halflife_images"](images_seen))

    return step


def seconds_per_image_bare(config: dict[str, Any]) -> float:
    """Train in a bare loop and return the seconds per image."""
    torch.manual_seed(config["seed"])
    model = instantiate(config["model"])
    data = instantiate(config["data"])
    step = bare_vae(model) if isinstance(model, VAE) else bare_gan(model)
    batches = iter(data.train_dataloader())
    images_seen, started_at = 0, time.perf_counter()
    while images_seen < config["max_images"]:
        images = from_uint8(next(batches))
        step(images, images_seen)
        images_seen += len(images)
    return (time.perf_counter() - started_at) / images_seen


class Stopwatch(Callback):
    """Times the steps; as the first callback it stops before what the others do at the end of a run."""

    def on_train_batch_start(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        if model.images_seen == 0:
            Stopwatch.started_at = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        Stopwatch.seconds_per_image = (time.perf_counter() - Stopwatch.started_at) / model.images_seen

    started_at: float
    seconds_per_image: float


def seconds_per_image_of_ours(config: dict[str, Any]) -> float:
    """Train as src.train does and return the seconds per image."""
    with tempfile.TemporaryDirectory() as run_dir:
        ours = json.loads(json.dumps(config).replace(config["run_dir"], run_dir))
        ours["callbacks"] = {"stopwatch": {"_target_": "benchmarks.overhead.Stopwatch"}, **ours["callbacks"]}
        with contextlib.redirect_stdout(io.StringIO()):
            fit(ours)
    return sys.modules["benchmarks.overhead"].Stopwatch.seconds_per_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--images", type=int, default=4_000)
    arguments = parser.parse_args()
    rows = []
    for model in ("vae", "gan"):
        config = composed(
            "train",
            [
                f"model={model}",
                "data.num_images=1000",
                "metrics=none",
                f"max_images={arguments.images}",
                "run_dir=/run-dir",
            ],
        )
        ratios, speeds = [], []
        for pair in range(arguments.pairs + 1):
            # Each goes first in every other pair.
            first, second = [seconds_per_image_bare, seconds_per_image_of_ours][:: 1 if pair % 2 else -1]
            seconds = {first: first(config), second: second(config)}
            bare, ours = seconds[seconds_per_image_bare], seconds[seconds_per_image_of_ours]
            if pair:  # the first only warms up
                ratios.append(ours / bare)
                speeds.append(1 / ours)
        rows.append((model, statistics.median(speeds), statistics.median(ratios), min(ratios), max(ratios)))
    print(f"\n{'model':8}{'images/s':>10}{'src.train / bare loop':>24}{'min':>8}{'max':>8}   ({arguments.pairs} pairs)")
    for model, speed, *ratios in rows:
        print(f"{model:8}{speed:10.1f}{ratios[0]:24.3f}{ratios[1]:8.3f}{ratios[2]:8.3f}")


if __name__ == "__main__":
    main()
