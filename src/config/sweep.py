"""The jobs of a sweep: one that fails leaves the others running, and at the end a table says what ended how."""

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from rich.console import Console
from rich.table import Table

from src.core.errors import RunFailed, UserError

FINISHED = "finished"


@dataclass
class Sweep:
    """Attempts jobs within Hydra's multirun."""

    endings: list[tuple[list[str], str, str]] = field(default_factory=list)

    def attempt(self, job: Callable[[], None]) -> None:
        """Runs a job and writes down how it ended; only the user's wish to end goes on to the caller."""
        try:
            job()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            self._ended(str(error))
        except RunFailed as failure:
            self._ended(failure.reason)
            if failure.requested:
                raise
        except KeyboardInterrupt:
            self._ended("interrupted")
            raise
        except Exception as error:
            traceback.print_exc()
            self._ended(f"{type(error).__name__}: {error}")
        else:
            self._ended(FINISHED)

    def _ended(self, how: str) -> None:
        hydra = HydraConfig.get()
        self.endings.append((list(hydra.overrides.task), how, hydra.runtime.output_dir))

    @property
    def failed(self) -> bool:
        return any(how != FINISHED for _, how, _ in self.endings)

    def show(self) -> None:
        """Prints the table."""
        if not self.endings:
            return
        table = Table(title=f"{len(self.endings)} jobs", title_justify="left")
        for column in ("job", "options", "ended", "folder"):
            table.add_column(column, overflow="fold")
        common = set.intersection(*(set(overrides) for overrides, _, _ in self.endings))
        for number, (overrides, how, folder) in enumerate(self.endings):
            own = " ".join(override for override in overrides if override not in common)
            path = Path(folder)
            shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            table.add_row(str(number), own, how, str(shown))
        Console().print(table)
