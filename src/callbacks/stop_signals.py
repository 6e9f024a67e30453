"""Signals that ask a run to stop: SIGTERM, SIGINT (Ctrl-C), SIGUSR1 (SLURM's warning), SIGHUP (a closed terminal)."""

import contextlib
import os
import signal
import time
from types import FrameType
from typing import Any


def stop_signals() -> list[signal.Signals]:
    """Return those that the system has (Windows: the first two), without SIGHUP where nohup has it ignored."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
    numbers = [signal.Signals[name] for name in names]
    return [n for n in numbers if n.name != "SIGHUP" or signal.getsignal(n) is not signal.SIG_IGN]


class StopSignals:
    """While steps are taken, remembers that a signal came, for the training loop to look at; a second SIGINT ends the
    process at once. Before and after, a signal ends the process with the status 128 + its number."""

    received, in_steps = 0, False

    def install(self) -> None:
        self.owner = os.getpid()
        self.previous: dict[int, Any] = {}
        # Python lets only the main thread do this; elsewhere signals keep their meaning.
        with contextlib.suppress(ValueError):
            for number in stop_signals():
                self.previous[number] = signal.signal(number, self.receive)

    def uninstall(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.owner:
            return  # a worker of the DataLoader, to which a terminal's signals go too: the last step wants its batches
        if not self.in_steps:
            raise SystemExit(128 + number)
        if number == signal.SIGINT == self.received:
            os._exit(128 + signal.SIGINT)
        self.received = number
        time.sleep(0.1)  # the program behind a pipe needs a moment to end by the same Ctrl-C
        sentence = f"{signal.Signals(number).name}: stopping after this step, with a checkpoint\n"
        for stream, text in ((1, "\n"), (2, sentence)):
            try:
                os.write(stream, text.encode())  # print() may be what was interrupted
            except OSError:  # nobody reads it, as the terminal is closed or Ctrl-C ended the program behind the pipe
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)  # printing would end the process by an error
