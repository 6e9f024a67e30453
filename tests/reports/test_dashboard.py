"""The workspace and the report that `python -m src.dashboard` makes, against the committed ones."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.reports.dashboard import write_dashboard

REPOSITORY = Path(__file__).parents[2]
EXPECTED = Path(__file__).with_name("dashboard.json")
CONFIG = yaml.safe_load((REPOSITORY / "conf" / "dashboard.yaml").read_text())
# What W&B's library adds to every panel: random names, and defaults of its own that are no choice of ours.
FOREIGN = {"__id__", "id", "ref", "localPanelSettings", "flowConfig", "runSets", "panelBankSectionConfig", "createdAt"}


def reduced(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reduced(item) for key, item in value.items() if key not in FOREIGN}
    return [reduced(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_dashboard("cat-faces", None, "Cat Faces", CONFIG["sections"], tmp_path)
    return tmp_path


def test_workspace_is_the_committed_one(capsys: pytest.CaptureFixture[str], written: Path) -> None:
    made = reduced(json.loads((written / "workspace.json").read_text()))
    # To accept a change: EXPECTED.write_text(json.dumps(made, indent=1) + "\n")
    assert made == json.loads(EXPECTED.read_text())
    sections = made["spec"]["section"]["panelBankConfig"]["sections"]
    names = ["Samples", "Quality", "Game or Bound", "Optimization", "Speed and warnings"]
    assert [section["name"] for section in sections] == names
    assert made["spec"]["section"]["settings"]["xAxis"] == "images_seen"
    assert "nothing was saved there" in capsys.readouterr().out


def test_report_asks_each_sections_question_above_its_panels(written: Path) -> None:
    blocks = json.loads((written / "report.json").read_text())["spec"]["blocks"]
    texts = [text["text"] for block in blocks for text in block.get("children", []) if text.get("text")]
    assert texts == [text for title, section in CONFIG["sections"].items() for text in (title, section["hint"])]
    grids = [block["metadata"]["panelBankSectionConfig"]["panels"] for block in blocks if "metadata" in block]
    counts = [
        sum(len(section.get(kind, ())) for kind in ("media", "tables", "lines"))
        for section in CONFIG["sections"].values()
    ]
    assert [len(panels) for panels in grids] == counts
    for panels in grids:
        places = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in panels]
        assert len(set(places)) == len(places)


def test_every_metric_of_the_dashboard_is_one_that_this_project_logs() -> None:
    source = "".join(path.read_text() for path in (REPOSITORY / "src").rglob("*.py") if path.name != "dashboard.py")
    source += "".join(path.read_text() for path in (REPOSITORY / "conf" / "metrics").glob("*.yaml"))
    words = set(re.findall(r"\w+", source))
    for section in CONFIG["sections"].values():
        for name in [name for metrics in section.get("lines", {}).values() for name in metrics]:
            parts = name.rpartition("/")[2].removesuffix("_mixture").removesuffix("_dimension")
            composed = re.fullmatch(r"(generator|discriminator)_(gradient_norm|loss|learning_rate)", parts)
            assert parts in words or (composed and f"_{composed[2]}" in source), name
