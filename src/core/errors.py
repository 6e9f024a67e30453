"""Errors that end a command in one sentence, and the exit statuses of a run."""

STOPPED = 75  # a checkpoint is written and `resume=last` continues (EX_TEMPFAIL of sysexits.h: try again later)


def printable(text: object) -> str:
    """Return a text for a terminal or a page: control characters, newlines and the like become their escape codes.

    Whatever comes from a file passes it: file names, members of archives, names and values of a checkpoint.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


class UserError(Exception):
    """Raised for bad input. The message says what is wrong, what is allowed and what to do; no traceback is shown."""

    def __init__(self, message: object) -> None:
        super().__init__(printable(message))


class RunStopped(SystemExit):
    """Raised by a run that was asked to stop and has written its checkpoint; exits with STOPPED."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(STOPPED)
        self.signal_name = signal_name


class RunFailed(SystemExit):
    """Raised by the launcher when a rank failed or the run was asked to stop; exits with the ranks' status.

    reason: one sentence. requested: whether a signal asked the run to end.
    """

    def __init__(self, status: int, reason: str, requested: bool = False) -> None:
        super().__init__(status)
        self.reason, self.requested = reason, requested
