"""Signals that ask a run to stop: SIGTERM, SIGINT (Ctrl-C), SIGUSR1 (SLURM's warning), SIGHUP (a closed terminal)."""

import contextlib
import os
import select
import signal
import stat
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
        if any(stat.S_ISFIFO(os.fstat(stream).st_mode) for stream in (1, 2)):
            time.sleep(0.1)  # the program behind the pipe needs a moment to end by the same Ctrl-C
        for stream in (1, 2):
            if is_gone(stream):  # printing would end the process by an error
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        # print() may be what was interrupted.
        with contextlib.suppress(OSError):
            os.write(2, f"\n{signal.Signals(number).name}: stopping after this step, with a checkpoint\n".encode())


def is_gone(stream: int) -> bool:
    """Tell whether nobody reads a stream: its terminal is closed, or Ctrl-C ended the program behind a pipe too."""
    mode = os.fstat(stream).st_mode
    if stat.S_ISFIFO(mode) and hasattr(select, "poll"):
        poll = select.poll()
        poll.register(stream, select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return stat.S_ISCHR(mode) and not os.isatty(stream)
