"""Runs of src.train for benchmarks: finished runs are kept, interrupted ones resumed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def summary_of(folder: Path, overrides: list[str]) -> dict[str, Any] | None:
    """Return the summary of the run in a folder, starting or resuming it if it is not done; None if it fails."""
    summary = folder / "summary.json"
    if not summary.exists():
        command = [sys.executable, "-m", "src.train", f"run_dir={folder}", *overrides, "resume=last"]
        if subprocess.run(command, check=False).returncode:
            return None
    return json.loads(summary.read_text())
