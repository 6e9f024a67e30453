"""The dashboard of a W&B project: a workspace with a section for each question, and a report to be filled in."""

import json
from pathlib import Path
from typing import Any

import wandb
from wandb_workspaces import workspaces
from wandb_workspaces.reports import v2

from src.core.files import write_atomic
from src.logger.wandb import choose_mode

AXIS = "images_seen"
reports: Any = v2  # whose types name no exports


def write_dashboard(project: str, entity: str | None, name: str, sections: dict[str, Any], folder: Path) -> None:
    """Write workspace.json and report.json into a folder; with a login save both in W&B, else say what that would do.

    sections: those of conf/dashboard.yaml. The report has each one's panels below its hint, which findings replace.
    """
    is_online = choose_mode() == "online"
    where: dict[str, Any] = {
        "project": project,
        "entity": entity or (wandb.Api().default_entity if is_online else "ENTITY"),
    }
    rows = [workspaces.Section(name=title, panels=panels(of), is_open=True) for title, of in sections.items()]
    settings = workspaces.WorkspaceSettings(x_axis=AXIS)
    workspace = workspaces.Workspace(**where, name=name, sections=rows, settings=settings)
    blocks: list[Any] = []
    for title, of in sections.items():
        blocks += [reports.H2(title), reports.P(of["hint"]), reports.PanelGrid(panels=panels(of))]
    report = reports.Report(**where, title=f"{name}: report", blocks=blocks)
    for built, file in ((report, "report.json"), (workspace, "workspace.json")):
        content = built._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
        write_atomic(folder / file, json.dumps(content, indent=1) + "\n")
        print(folder / file)
    if is_online:
        report.save(draft=True)  # makes the project if there is none yet
        workspace.save()  # both print their addresses
    else:
        print(
            "nobody is logged in to W&B (or WANDB_MODE says otherwise), so nothing was saved there; after a login "
            f"the same command makes the workspace {name!r} of the project {project!r} and a draft of a report"
        )


def panels(section: dict[str, Any]) -> list[Any]:
    """Return the panels of a section, three in a row: images and films over time, tables, and lines."""
    media = [reports.MediaBrowser(title=key, media_keys=[key], gallery_axis="step") for key in section.get("media", [])]
    tables = [reports.WeavePanelSummaryTable(table_name=key) for key in section.get("tables", [])]
    lines = section.get("lines", {}).items()
    found = [*media, *tables, *(reports.LinePlot(title=title, x=AXIS, y=metrics) for title, metrics in lines)]
    for index, panel in enumerate(found):
        panel.layout = reports.Layout(x=8 * (index % 3), y=6 * (index // 3))
    return found
