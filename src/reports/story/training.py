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
    """A run folder, and the options of src.train for its run."""

    folder: Path
    overrides: list[str]

    def arguments(self, folder: Path) -> list[str]:
        """Return the arguments that train in a folder; an interrupted run goes on."""
        return ["-m", "src.train", *self.overrides, f"run_dir={folder}", "resume=last"]

    @property
    def command(self) -> str:
        """The command as a user types it."""
        return shlex.join(["python", *self.arguments(self.folder)])

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINTS / LAST

    @property
    def record(self) -> Path:
        """The file that holds the command once its run is finished."""
        return self.folder / "command.txt"

    def is_finished(self) -> bool:
        """Tell whether the run is finished; UserError if the folder holds another command's run."""
        if not self.record.is_file():
            return False
        if self.record.read_text().strip() != self.command:
            raise UserError(
                f"{self.folder} holds a run with other options (they are in {self.record}); "
                "give output=... for another story, or remove that folder"
            )
        return True


def train(parts: list[Part]) -> None:
    """Train what is not finished. SystemExit with a run's exit status if it fails."""
    missing = [part for part in parts if not part.is_finished()]
    # A mistake in the options of the last run is found before the first one starts.
    for part in missing:
        GlobalHydra.instance().clear()
        check_ahead("train", part.overrides, [])
    for part in missing:
        print(f"\n{part.command}", flush=True)
        command = [sys.executable, *part.arguments(part.folder.absolute())]
        finished = subprocess.run(command, cwd=REPOSITORY, check=False)
        if finished.returncode:
            raise SystemExit(finished.returncode)
        part.record.write_text(part.command + "\n")
