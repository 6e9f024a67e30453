"""Pages of one HTML file: Jinja templates, and images inside them."""

import base64
import io
from pathlib import Path, PurePosixPath

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from torch import Tensor

from src.core.errors import printable
from src.core.images import to_pillow


def template(module: str) -> Template:
    """Return the template page.html beside a module's file, in which an unknown name is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(module).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["stem"] = lambda name: PurePosixPath(name).stem
    environment.filters["percent"] = lambda part, whole: f"{100 * part / whole:.1f}%" if whole else "0%"
    return environment.get_template("page.html")


def data_uri(media_type: str, content: bytes) -> Markup:
    """Return bytes as an address that needs no file."""
    return Markup(f"data:{media_type};base64,{base64.b64encode(content).decode()}")


def image_uri(image: Tensor, effort: int = 4) -> Markup:
    """Return an image, uint8 (3, H, W), as an address that needs no file. effort: of the compression, 0 to 6."""
    with io.BytesIO() as file:
        to_pillow(image).save(file, "WEBP", quality=90, method=effort)
        return data_uri("image/webp", file.getvalue())
