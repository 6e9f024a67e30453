"""Progress of long work: a bar on a terminal, a line now and then elsewhere, by rank 0 only."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from src.core.distributed import get_rank
from src.core.errors import printable

Item = TypeVar("Item")
CONSOLE = Console(stderr=True, markup=False, emoji=False)  # one for all, as bars may be shown at the same time
DELAY_S, INTERVAL_S = 2.0, 30.0


def track(items: Iterable[Item], total: float | None, title: str, size: Callable[[Any], float] = len) -> Iterator[Item]:
    """Yield the items, and show how much of `total`, the sum of their sizes, is done and how long the rest takes.

    total=None: not known. Every rank may call it with its own items; rank 0 shows its own. Work that takes less than
    two seconds shows nothing.
    """
    if get_rank() > 0:
        yield from items
        return
    title_column = TextColumn("{task.description}", markup=False)
    columns = title_column, *Progress.get_default_columns()[1:], MofNCompleteColumn()
    bar = Progress(*columns, console=CONSOLE, transient=True, get_time=time.monotonic)
    task, show_at = bar.add_task(printable(title), total=total), time.monotonic() + DELAY_S
    try:
        for item in items:
            yield item
            bar.advance(task, size(item))
            if time.monotonic() < show_at or bar.finished:
                continue
            show_at += INTERVAL_S
            if CONSOLE.is_terminal:
                bar.start()
            else:
                CONSOLE.print(bar.get_renderable())
    finally:
        if bar.live.is_started:
            bar.stop()
