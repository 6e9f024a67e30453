"""`python -m src.story`: trains an autoencoder, VAEs and a GAN and compares them on one page."""

from typing import Any

from hydra.core.hydra_config import HydraConfig

from src.config.cli import run
from src.core.types import NonNegativeFloat, ObjectConfig, OutputPath, PositiveInt, Seed


def story(
    output: OutputPath,
    seed: Seed,
    num_images: PositiveInt,
    quick: bool,
    all: list,
    autoencoder: list,
    vae: list,
    betas: list[NonNegativeFloat],
    gan: list,
    quick_options: list,
    options: list,
    data: ObjectConfig,
) -> None:
    """Train what is not trained yet, each model in a process of its own, then write index.html."""
    from pathlib import Path

    from src.reports.story.training import train

    typed = [override for override in HydraConfig.get().overrides.task if override.lstrip("+~").startswith("data")]
    common: list[Any] = [*(quick_options if quick else []), *options, *typed, f"seed={seed}"]
    folder = Path(output, "quick") if quick else Path(output)
    recipes = {"autoencoder": autoencoder, "vae": vae, "gan": gan}
    recipes |= {f"vae_beta_{beta:g}": [*vae, f"model.beta={beta:g}"] for beta in betas}
    train({folder / name: [*all, *recipe, *common] for name, recipe in recipes.items()})

    from src.reports.story.page import write_page

    page = write_page(folder, list(recipes), num_images, seed)
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB, all in one file")


if __name__ == "__main__":
    run(story)
