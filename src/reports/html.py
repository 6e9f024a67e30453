"""Pages of one HTML file: Jinja templates, and images inside them."""

import base64
import io
from pathlib import Path, PurePosixPath

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from src.core.errors import printable

GAP = 2  # pixels around the images of a grid, as in src/core/images.py, which needs torch


def template(module: str) -> Template:
    """Return the template page.html beside a module's file, in which an unknown name is an error.

    It may extend base.html and include plain.css, which stand here.
    """
    environment = Environment(
        loader=FileSystemLoader([Path(module).parent, Path(__file__).parent]), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["stem"] = lambda name: PurePosixPath(name).stem
    return environment.get_template("page.html")


def data_uri(media_type: str, content: bytes) -> Markup:
    """Return bytes as an address that needs no file."""
    return Markup(f"data:{media_type};base64,{base64.b64encode(content).decode()}")


def image_uri(image: Image.Image, quality: int = 90) -> Markup:
    """Return an image as an address that needs no file."""
    with io.BytesIO() as file:
        image.save(file, "WEBP", quality=quality)
        return data_uri("image/webp", file.getvalue())


def grid_uri(path: Path, image_size: int, columns: int, rows: int, quality: int = 90) -> Markup:
    """Return the upper left images of a grid that a run wrote as an address that needs no file."""
    with Image.open(path) as grid:
        right, bottom = (count * (image_size + GAP) + GAP for count in (columns, rows))
        corner = grid.convert("RGB").crop((0, 0, min(right, grid.width), min(bottom, grid.height)))
        return image_uri(corner, quality)
