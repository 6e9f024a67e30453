"""The command line as a user has it: a process each, from any directory."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra

from src.config.cli import checked, compose

REPOSITORY = Path(__file__).parents[2]
TINY_NETWORKS = {
    "vae": ["model.encoder.width=8", "model.encoder.max_width=16"],
    "autoencoder": ["model.encoder.width=8", "model.encoder.max_width=16"],
    "vae_gan": ["model.encoder.width=8", "model.encoder.max_width=16", "model.discriminator.width=8"],
    "gan": ["model.generator.width=8", "model.generator.max_width=16", "model.discriminator.width=8"],
}


def tiny(model: str, *overrides: str) -> list[str]:
    """Overrides of a run of some seconds: 16 batches of 16 of the 64 images."""
    run = ["debug=fast", "trainer=cpu", "max_images=250", "data.num_images=64", "callbacks.evaluation.every_images=128"]
    return [f"model={model}", *run, *TINY_NETWORKS[model], *overrides]


def command(
    module: str, *arguments: str, cwd: Path = REPOSITORY, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m <module> <arguments>`, its output as text."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "WANDB_MODE": "offline"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def succeeded(module: str, *arguments: str, **options: Any) -> str:
    """The standard output of a command that must succeed."""
    result = command(module, *arguments, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def config_of(*overrides: str, name: str = "train") -> dict[str, Any]:
    """Return the config that a command line composes and checks, in this process."""
    GlobalHydra.instance().clear()
    return checked(compose(name, list(overrides)), name)
