"""What takes long says so: a bar on a terminal, a line now and then elsewhere, by the first process only."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from src.core.distributed import get_rank

Item = TypeVar("Item")
CONSOLE = Console(stderr=True)  # one for all: bars that are shown at the same time share the terminal
SILENT_S, SAY_EVERY_S = 2.0, 30.0


def track(items: Iterable[Item], total: int | None, title: str, size: Callable[[Any], int] = len) -> Iterator[Item]:
    """The items, and on the screen how much of `total`, the sum of their sizes, is done and how long the rest takes.
    Of an unknown total (None) only what is done.

    Every process may call it with its share; the first one shows its own. Work of two seconds shows nothing.
    """
    if get_rank() > 0:
        yield from items
        return
    bar = Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=CONSOLE, transient=True)
    task = bar.add_task(title, total=total)
    started_at = time.monotonic()
    say_at, done = started_at + SILENT_S, 0
    try:
        for item in items:
            yield item
            done += size(item)
            bar.update(task, completed=done)
            now = time.monotonic()
            if now < say_at or done == total:
                continue
            say_at = now + SAY_EVERY_S
            if CONSOLE.is_terminal:
                bar.start()
            elif total is None:
                CONSOLE.print(f"{title}: {done:,}", soft_wrap=True, highlight=False)
            else:
                left = (now - started_at) / max(done, 1) * (total - done)
                CONSOLE.print(f"{title}: {done:,}/{total:,}, about {left:.0f} s left", soft_wrap=True, highlight=False)
    finally:
        if bar.live.is_started:
            bar.stop()
