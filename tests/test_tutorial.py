"""The tutorial runs from top to bottom, in a folder of its own, and shows what its text says."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.commands import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "tutorial.ipynb"


def outputs_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_tutorial_runs_from_top_to_bottom(tmp_path: Path) -> None:
    for name in ("src", "conf", "pretrained"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    images = [output for output in outputs_of(notebook) if "image/png" in output.get("data", {})]
    assert len(images) >= 15
    assert not any(output.output_type == "error" for output in outputs_of(notebook))


def test_committed_outputs_are_small_and_name_no_machine() -> None:
    text = NOTEBOOK.read_text()
    assert len(text) < 1_500_000
    assert outputs_of(nbformat.reads(text, as_version=4))
    for word in ("/home/", "/tmp/", str(REPOSITORY), "site-packages", "Traceback"):
        assert word not in text
