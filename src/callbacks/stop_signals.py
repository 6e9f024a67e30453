"""Signals that ask a run to stop: SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (SLURM's warning)."""

import contextlib
import os
import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """While steps are taken, remembers that a signal came, for the training loop to look at; a second SIGINT ends the
    process at once. Before and after, a signal ends the process with the status 128 + its number."""

    def __init__(self) -> None:
        self.received = 0
        self.in_steps = False
        self.previous: dict[int, Any] = {}

    def install(self) -> None:
        # Python lets only the main thread do this; elsewhere signals keep their meaning.
        with contextlib.suppress(ValueError):
            self.previous = {number: signal.signal(number, self.receive) for number in SIGNALS}

    def uninstall(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def receive(self, number: int, frame: FrameType | None) -> None:
        if not self.in_steps:
            raise SystemExit(128 + number)
        if number == signal.SIGINT == self.received:
            os._exit(128 + signal.SIGINT)
        self.received = number
        # print() may be what was interrupted.
        os.write(2, f"\n{signal.Signals(number).name}: stopping after this step, with a checkpoint\n".encode())
