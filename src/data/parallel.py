"""Work on many items in threads, with a bar on a terminal."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

Item = TypeVar("Item")
Done = TypeVar("Done", bound=Sized)


def in_threads(work: Callable[[Item], Done], items: Iterable[Item], total: int | None, title: str) -> Iterator[Done]:
    """work(item) of every item, in order, made a few ahead by as many threads as cores.

    On a terminal a bar is shown after the first second; it counts the lengths of what work returns.
    """
    console = Console(stderr=True)
    bar = Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True)
    task = bar.add_task(title, total=total)
    show_at = time.monotonic() + 1
    with ExitStack() as stack:
        for done in _results(work, items, num_cores()):
            bar.advance(task, len(done))
            if console.is_terminal and not bar.live.is_started and time.monotonic() > show_at:
                stack.enter_context(bar)
            yield done


def num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _results(work: Callable[[Item], Done], items: Iterable[Item], num_threads: int) -> Iterator[Done]:
    pending: deque[Future[Done]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > 4 * num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
