"""Two runs of some seconds, which the tests of this folder explore."""

from pathlib import Path

import pytest

from src.api import train
from tests.helpers.commands import tiny

SMALL = ["metrics=none", "max_images=96", "callbacks.checkpoints.milestones=true", "callbacks.checkpoints.keep=1"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a GAN and a VAE that saw 96 of 64 drawn cats, batches of 16."""
    folder = tmp_path_factory.mktemp("explored")
    kinds = ("gan", "vae")
    return {kind: train(*tiny(kind, *SMALL, f"run_dir={folder / kind}")).folder for kind in kinds}
