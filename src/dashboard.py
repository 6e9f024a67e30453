"""`python -m src.dashboard`: makes the W&B workspace of a project, and a report to be filled in."""

from typing import Any

from src.config.cli import run
from src.core.types import OutputPath


def dashboard(project: str, entity: str | None, name: str, output: OutputPath, sections: dict[str, Any]) -> None:
    """Write workspace.json and report.json; where you are logged in, save both in W&B too."""
    from pathlib import Path

    from src.reports.dashboard import write_dashboard

    write_dashboard(project, entity, name, sections, Path(output).expanduser())


if __name__ == "__main__":
    run(dashboard)
