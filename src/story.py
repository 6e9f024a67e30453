"""`python -m src.story`: trains an autoencoder, a VAE and a GAN and compares them on one page."""

from typing import Any

from hydra.core.hydra_config import HydraConfig

from src.config.cli import run
from src.core.types import ObjectConfig, OutputPath, PositiveInt, Seed


def story(
    output: OutputPath,
    seed: Seed,
    num_images: PositiveInt,
    all: list,
    autoencoder: list,
    vae: list,
    gan: list,
    options: list,
    data: ObjectConfig,
) -> None:
    """Train what is not trained yet, each model in a process of its own, then write index.html."""
    from pathlib import Path

    from src.reports.story.training import train

    typed = [override for override in HydraConfig.get().overrides.task if override.lstrip("+~").startswith("data")]
    common: list[Any] = [*options, *typed, f"seed={seed}"]
    folder = Path(output)
    recipes = {"autoencoder": autoencoder, "vae": vae, "gan": gan}
    train({folder / name: [*all, *recipe, *common] for name, recipe in recipes.items()})

    from src.reports.story.page import write_page

    page = write_page(folder, num_images, seed)
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB, all in one file")


if __name__ == "__main__":
    run(story)
