"""The jobs of a sweep: one that fails leaves the others running, and at the end a table says how each ended."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from src.core.errors import RunFailed, UserError, printable

FINISHED = "finished"
Result = tuple[list[str], str, str]  # a job's options, its end in words and its folder


@contextmanager
def sweep() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yield what runs each job of Hydra's multirun; end with a table, and exit status 1 if a job did not end well."""
    results: list[Result] = []
    try:
        yield partial(attempt, results)
    finally:
        if results:
            show(results)
    if any(ended != FINISHED for _, ended, _ in results):
        raise SystemExit(1)


def attempt(results: list[Result], job: Callable[[], None]) -> None:
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
        config = HydraConfig.get()
        results.append((list(config.overrides.task), ended, config.runtime.output_dir))


def show(results: list[Result]) -> None:
    """Print a table of the jobs, each with the options that not all of them share."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(results)} jobs", title_justify="left")
    for column in ("job", "options", "ended", "folder"):
        table.add_column(column, overflow="fold")
    common = set.intersection(*(set(overrides) for overrides, _, _ in results))
    for number, (overrides, ended, folder) in enumerate(results):
        path = Path(folder)
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        own = " ".join(override for override in overrides if override not in common)
        table.add_row(str(number), *map(printable, (own, ended, shown)))
    Console(markup=False, emoji=False).print(table)
