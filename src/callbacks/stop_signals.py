"""Signals that ask a run to stop: SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (SLURM's warning)."""

import contextlib
import os
import signal
from types import FrameType
from typing import Any


class StopSignals:
    """While steps are taken, remembers that a signal came, for the training loop to look at; a second SIGINT ends the
    process at once. Before and after, a signal ends the process with the status 128 + its number."""

    received, in_steps = 0, False

    def install(self) -> None:
        self.previous: dict[int, Any] = {}
        # Python lets only the main thread do this; elsewhere signals keep their meaning.
        with contextlib.suppress(ValueError):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                self.previous[number] = signal.signal(number, self.receive)

    def uninstall(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if not self.in_steps:
            raise SystemExit(128 + number)
        if number == signal.SIGINT == self.received:
            os._exit(128 + signal.SIGINT)
        self.received = number
        # print() may be what was interrupted.
        os.write(2, f"\n{signal.Signals(number).name}: stopping after this step, with a checkpoint\n".encode())
