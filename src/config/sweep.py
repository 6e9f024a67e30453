"""The jobs of a sweep: one that fails leaves the others running, and at the end a table says how each ended."""

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from src.core.errors import RunFailed, UserError

FINISHED = "finished"


@dataclass
class Sweep:
    """Runs the jobs of Hydra's multirun. results: the options, the end in words and the folder of each job so far."""

    results: list[tuple[list[str], str, str]] = field(default_factory=list)

    def attempt(self, job: Callable[[], None]) -> None:
        """Run a job and record how it ended. Only the user's request to stop is raised again, and ends the sweep."""
        ended = FINISHED
        try:
            job()
        except UserError as error:
            ended = str(error)
            print(f"error: {error}", file=sys.stderr)
        except (RunFailed, KeyboardInterrupt) as error:
            ended = error.reason if isinstance(error, RunFailed) else "interrupted"
            if isinstance(error, KeyboardInterrupt) or error.requested:
                raise
        except Exception as error:
            ended = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        finally:
            self.record(ended)

    def record(self, ended: str) -> None:
        """Note how the current job ended."""
        config = HydraConfig.get()
        self.results.append((list(config.overrides.task), ended, config.runtime.output_dir))

    @property
    def failed(self) -> bool:
        """True if a job did not end well."""
        return any(ended != FINISHED for _, ended, _ in self.results)

    def show(self) -> None:
        """Print a table of the jobs, each with the options that not all of them share."""
        from rich.console import Console
        from rich.table import Table

        if not self.results:
            return
        table = Table(title=f"{len(self.results)} jobs", title_justify="left")
        for column in ("job", "options", "ended", "folder"):
            table.add_column(column, overflow="fold")
        common = set.intersection(*(set(overrides) for overrides, _, _ in self.results))
        for number, (overrides, ended, folder) in enumerate(self.results):
            path = Path(folder)
            shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            own = " ".join(override for override in overrides if override not in common)
            table.add_row(str(number), own, ended, str(shown))
        Console().print(table)
