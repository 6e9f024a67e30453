"""The three runs of a story: each is a `python -m src.train` of its own, and none is trained twice."""

import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from src.config.cli import composed
from src.core.errors import UserError

COMMAND = "command.txt"  # holds the command, as a user types it, in the folder of a run that is finished


def train(options: Mapping[Path, list[str]]) -> None:
    """Train in each run folder with its options of src.train, unless that is finished; an interrupted run goes on.

    SystemExit with a run's exit status if it fails; UserError if a folder holds the run of another command.
    """
    missing = {}
    for folder, overrides in options.items():
        command = ["python", "-m", "src.train", *overrides, f"run_dir={folder}", "resume=last"]
        record = folder / COMMAND
        if not record.is_file():
            # A mistake in the options of the last run is found before the first one starts.
            composed("train", overrides)
            missing[record] = command
        elif record.read_text().strip() != shlex.join(command):
            raise UserError(
                f"{folder} holds a run with other options (they are in {record}); "
                "give output=... for another story, or remove that folder"
            )
    for record, command in missing.items():
        print(f"\n{shlex.join(command)}", flush=True)
        status = subprocess.run([sys.executable, *command[1:]], check=False).returncode
        if status:
            raise SystemExit(status)
        record.write_text(shlex.join(command) + "\n")
