"""Who may import whom: the rules of src/__init__.py, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
ENTRY_POINTS = {"train", "evaluate", "sample", "latents", "story", "inspect_data"}
FRAMEWORKS = {"lightning", "hydra", "omegaconf", "wandb"}
# What each package may import of this project, besides itself.
ALLOWED: dict[str, set[str]] = {}


def imports(file: Path) -> Iterator[str]:
    """The full name of every module imported anywhere in a file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            # `from src import images` imports src.core.images.
            yield from (f"src.{item.name}" for item in node.names) if node.module == "src" else (str(node.module),)


def imported_by(package: str) -> set[str]:
    return {name for file in (SRC / package).rglob("*.py") for name in imports(file)}


def own(names: set[str]) -> set[str]:
    """First part inside src of this project's modules."""
    return {name.split(".")[1] for name in names if name.startswith("src.")}


@pytest.mark.parametrize("package", ["networks", "objectives", "metrics"])
def test_package_knows_no_framework(package: str) -> None:
    assert not {name.split(".")[0] for name in imported_by(package)} & FRAMEWORKS


@pytest.mark.parametrize("package", ["networks", "objectives"])
def test_package_needs_torch_only(package: str) -> None:
    others = {name.split(".")[0] for name in imported_by(package)} - sys.stdlib_module_names
    assert others <= {"torch", "src"}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_dependencies_point_one_way(package: str) -> None:
    assert own(imported_by(package)) <= ALLOWED[package] | {package}


def test_only_tests_and_processes_call_entry_points() -> None:
    importing = {file.stem for file in SRC.rglob("*.py") if own(set(imports(file))) & ENTRY_POINTS}
    assert importing == set()


def test_nothing_is_called_utils() -> None:
    names = {part for file in SRC.rglob("*.py") for part in file.relative_to(SRC).with_suffix("").parts}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_composing_a_config_imports_no_torch() -> None:
    code = f"""if True:
        import sys
        import src.train, src.evaluate, src.sample, src.latents, src.story, src.inspect_data
        from tests.helpers.commands import config_of
        config_of("model=gan")
        print(sorted({FRAMEWORKS - {"hydra", "omegaconf"} | {"torch", "numpy"}} & sys.modules.keys()))"""
    result = subprocess.run([sys.executable, "-c", code], cwd=SRC.parent, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
