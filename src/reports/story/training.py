"""The three runs of a story: each is a `python -m src.train` of its own, and none is trained twice."""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from src.config.cli import check_ahead
from src.core.errors import UserError
from src.core.run_folder import CHECKPOINTS, LAST

REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Part:
    """A run folder and the options of src.train that fill it."""

    folder: Path
    overrides: list[str]

    @property
    def command(self) -> str:
        """As a user types it."""
        return shlex.join(["python", "-m", "src.train", *self.options(self.folder)])

    def options(self, folder: Path) -> list[str]:
        """Those of src.train; a run that was interrupted goes on."""
        return [*self.overrides, f"run_dir={folder}", "resume=last"]

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINTS / LAST

    @property
    def record(self) -> Path:
        """Holds the command of a run that has ended well."""
        return self.folder / "command.txt"

    def is_finished(self) -> bool:
        """UserError where another command's run has this folder."""
        if not self.record.is_file():
            return False
        if self.record.read_text().strip() != self.command:
            raise UserError(
                f"{self.folder} holds a run of other options ({self.record} has them); "
                "give output=... for another story, or remove that folder"
            )
        return True


def train(parts: list[Part]) -> None:
    """Runs what is not finished; SystemExit with the exit code of a run that fails."""
    missing = [part for part in parts if not part.is_finished()]
    # What is mistyped for the last run is told before the first.
    for part in missing:
        GlobalHydra.instance().clear()
        check_ahead("train", "src.train.train", part.overrides, [])
    for part in missing:
        print(f"\n{part.command}", flush=True)
        arguments = [sys.executable, "-m", "src.train", *part.options(part.folder.absolute())]
        finished = subprocess.run(arguments, cwd=REPOSITORY, check=False)
        if finished.returncode:
            raise SystemExit(finished.returncode)
        part.record.write_text(part.command + "\n")
