"""A stand-in for a run that costs no processor time: `fit` imports no torch."""

import time
from pathlib import Path
from typing import Any

from filelock import FileLock


def fit(config: dict[str, Any]) -> None:
    """Take 8 steps, each a line of a file that a resumed run continues; fail if another process does so too."""
    folder = Path(config["run_dir"])
    with FileLock(folder / "alone", timeout=0):
        steps = (folder / "steps").read_text().count("\n") if (folder / "steps").exists() else 0
        for step in range(steps, 8):
            time.sleep(0.1)
            with (folder / "steps").open("a") as file:
                file.write(f"{step}\n")
        (folder / "summary.json").write_text('{"final": {"train/generator_loss": 1.0}}')
