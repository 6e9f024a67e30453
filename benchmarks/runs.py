"""Runs of src.train that a benchmark is made of: what is done stays done, what was interrupted goes on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def summary_of(folder: Path, overrides: list[str]) -> dict[str, Any] | None:
    """The summary of the run in the folder, which begins, goes on or is done; None if it fails."""
    summary = folder / "summary.json"
    if not summary.exists():
        command = [sys.executable, "-m", "src.train", f"run_dir={folder}", *overrides, "resume=last"]
        if subprocess.run(command, check=False).returncode:
            return None
    return json.loads(summary.read_text())
