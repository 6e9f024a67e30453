"""`python -m src.explore checkpoint=RUN`: a page in the browser to play with a model, or with several side by side."""

from typing import Literal

from src.config.cli import run
from src.core.types import CheckpointPath, Port


def explore(
    checkpoint: CheckpointPath | list[CheckpointPath],
    host: str,
    port: Port | None,
    open: bool,
    device: Literal["auto", "cpu", "cuda", "mps"],
) -> None:
    """Serve the page until Ctrl-C. It sends nothing anywhere, and downloads nothing."""
    import os

    from src.core.download import OFFLINE

    os.environ |= {OFFLINE: "1", "HF_HUB_OFFLINE": "1"}
    from src.explorer.page import explore as serve

    serve([checkpoint] if isinstance(checkpoint, str) else checkpoint, host, port, open, device)


if __name__ == "__main__":
    run(explore)
