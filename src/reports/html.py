"""Pages of one file: Jinja templates, and images inside them."""

import base64
from pathlib import Path, PurePosixPath

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup


def template(module: str) -> Template:
    """page.html beside a module's file; an unknown name in it is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(module).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["stem"] = lambda name: PurePosixPath(name).stem
    environment.filters["percent"] = lambda part, whole: f"{100 * part / whole:.1f}%" if whole else "0%"
    return environment.get_template("page.html")


def data_uri(kind: str, content: bytes) -> Markup:
    """Bytes of a media type, as an address that needs no file."""
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")
