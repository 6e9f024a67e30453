"""Which room may import which (DESIGN of the source, docs/architecture.md), read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
# From the top down: a room imports only rooms of ranks below its own, lazily imported ones included.
RANKS = [
    {"tuning", "explorer"},
    {"reports"},
    {"training"},
    {"callbacks"},
    {"logger"},
    {"evaluation"},
    {"models", "data"},
    {"metrics", "networks", "objectives", "config"},
    {"core"},
]
ROOMS = sorted(folder.name for folder in SRC.iterdir() if folder.is_dir() and any(folder.glob("*.py")))
COMMANDS = sorted(file.stem for file in SRC.glob("*.py") if file.stem not in ("__init__", "__main__", "api"))
FRAMEWORKS = {"lightning", "hydra", "omegaconf", "wandb"}


def imports(file: Path) -> Iterator[str]:
    """Yield the full name of every module imported anywhere in a file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            # `from src.core import images` imports src.core.images.
            yield from (f"{node.module}.{item.name}" for item in node.names)


def imported_by(room: str) -> set[str]:
    return {name for file in (SRC / room).rglob("*.py") for name in imports(file)}


def rooms_in(names: set[str]) -> set[str]:
    """Return the first part inside src of this project's modules."""
    return {name.split(".")[1] for name in names if name.startswith("src.")}


def rank_of(room: str) -> int:
    return next(rank for rank, rooms in enumerate(RANKS) if room in rooms)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_rooms_below_them(room: str) -> None:
    others = rooms_in(imported_by(room)) - {room}
    below = set().union(*RANKS[rank_of(room) + 1 :])
    assert others <= below


def test_no_module_imports_itself_through_others() -> None:
    modules = {".".join(file.relative_to(SRC.parent).with_suffix("").parts): file for file in SRC.rglob("*.py")}
    graph = {
        name: {parent for used in imports(file) for parent in (used, used.rpartition(".")[0]) if parent in modules}
        for name, file in modules.items()
    }
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle of imports: {' -> '.join([*path, name])}"
        if name not in finished:
            for used in sorted(graph[name] - {name}):
                visit(used, (*path, name))
            finished.add(name)

    for name in modules:
        visit(name, ())


@pytest.mark.parametrize("room", ["networks", "objectives", "metrics"])
def test_room_knows_no_framework(room: str) -> None:
    assert not {name.split(".")[0] for name in imported_by(room)} & FRAMEWORKS


@pytest.mark.parametrize("room", ["networks", "objectives"])
def test_room_needs_torch_only(room: str) -> None:
    others = {name.split(".")[0] for name in imported_by(room)} - sys.stdlib_module_names
    assert others <= {"torch", "src"}


def test_no_room_imports_a_command() -> None:
    assert not {name for room in ROOMS for name in rooms_in(imported_by(room))} & {*COMMANDS, "api"}


def test_only_commands_and_the_api_lie_loose_in_src_and_no_room_has_a_commands_name() -> None:
    assert not set(COMMANDS) & set(ROOMS)
    for command in COMMANDS:
        lines = (SRC / f"{command}.py").read_text().splitlines()
        assert len(lines) <= 60, f"src/{command}.py has {len(lines)} lines: a command is wiring"
        assert any("run(" in line for line in lines), f"src/{command}.py is no command"


def test_only_short_files_are_package_markers_and_the_shortest_modules() -> None:
    allowed = {SRC / "core" / "errors.py", SRC / "core" / "seeds.py"}
    short = {
        str(file.relative_to(SRC))
        for file in SRC.rglob("*.py")
        if file.name != "__init__.py" and file.parent != SRC and file not in allowed
        if len(file.read_text().splitlines()) < 20
    }
    assert short == set()


def test_nothing_is_called_utils() -> None:
    names = {part for file in SRC.rglob("*.py") for part in file.relative_to(SRC).with_suffix("").parts}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_composing_a_config_imports_no_torch() -> None:
    code = f"""if True:
        import sys
        import {", ".join(f"src.{command}" for command in COMMANDS)}
        from tests.helpers.commands import config_of
        config_of("model=gan")
        print(sorted({FRAMEWORKS - {"hydra", "omegaconf"} | {"torch", "numpy"}} & sys.modules.keys()))"""
    result = subprocess.run([sys.executable, "-c", code], cwd=SRC.parent, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
