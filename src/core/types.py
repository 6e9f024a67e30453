"""What a constructor's annotation may say beyond a type: a range, the choices, a path that must exist.

A constructor's signature is the schema of its config; src/config/validation.py holds what users type to it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, get_args


@dataclass(frozen=True)
class Kind:
    """One kind of value: a description for people, a test, a conversion, the choices if there are few."""

    description: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    choices: tuple[object, ...] = ()
    is_path: bool = False


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def number(description: str, accepts: Callable[[float], bool]) -> Kind:
    return Kind(description, lambda value: is_number(value) and accepts(value), float)


def whole_number(description: str, accepts: Callable[[float], bool]) -> Kind:
    """2e5 is a whole number too."""
    return Kind(description, lambda value: is_number(value) and value == int(value) and accepts(value), int)


def choice(*values: object) -> Kind:
    return Kind("one of " + ", ".join(map(str, values)), lambda value: value in values, choices=values)


def path(description: str, accepts: Callable[[Path], bool]) -> Kind:
    return Kind(
        description,
        lambda value: isinstance(value, str) and accepts(Path(value).expanduser()),
        # A checkpoint keeps it, and may be used from another folder.
        lambda value: str(Path(value).expanduser().absolute()),
        is_path=True,
    )


def holds_images(root: Path) -> bool:
    """A glance, for what is mistyped: src.data.folder looks closely."""
    if root.is_dir():
        return any(file.suffix.lower() in IMAGES for file in root.rglob("*"))
    return root.is_file() and root.name.lower().endswith(ARCHIVES)


def may_be_checkpoint(given: Path) -> bool:
    """Tell whether a path is a folder or a file whose header begins as that of a safetensors file does."""
    if given.is_dir():
        return True
    try:
        with given.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False


def is_color(value: object) -> bool:
    from PIL import ImageColor

    try:
        return len(ImageColor.getrgb(color(value))) == 3
    except ValueError:
        return False


def color(value: object) -> str:
    """Six digits are a color without its #, which a command line would want quoted twice."""
    return f"#{value}" if re.fullmatch("[0-9a-fA-F]{6}", str(value)) else str(value)


IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")

PositiveInt = Annotated[int, whole_number("a whole number of at least 1", lambda value: value >= 1)]
NonNegativeInt = Annotated[int, whole_number("a whole number of at least 0", lambda value: value >= 0)]
# More bits than 32 a generator on the CPU does not read.
Seed = Annotated[int, whole_number("a whole number from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32)]
PositiveFloat = Annotated[float, number("a number above 0", lambda value: value > 0)]
NonNegativeFloat = Annotated[float, number("a number of at least 0", lambda value: value >= 0)]
Fraction = Annotated[float, number("a number of at least 0 and below 1", lambda value: 0 <= value < 1)]
Probability = Annotated[float, number("a number from 0 to 1", lambda value: 0 <= value <= 1)]
ExistingPath = Annotated[str, path("a path that exists", Path.exists)]
CheckpointPath = Annotated[
    str, path("a checkpoint of a run folder (checkpoints/best.safetensors) or a run folder", may_be_checkpoint)
]
ImagesPath = Annotated[str, path(f"a folder, {', '.join(ARCHIVES)} of {', '.join(IMAGES)} files", holds_images)]
Color = Annotated[str, Kind("a color (white, ff8000, ...)", is_color, color)]
FolderPath = Annotated[str, Kind("the path of a folder", lambda value: isinstance(value, str) and bool(value))]
ImageSize = Literal[32, 64, 128, 256]
Normalization = Literal["none", "batch", "group"]

ANYTHING = Kind("anything", lambda value: True)
NOTHING = Kind("null", lambda value: value is None)
# A name that stands for no scalar: an object that the config makes.
OBJECT = Kind("an object (_target_)", lambda value: isinstance(value, Mapping | list) or callable(value))

DEVICES = Kind(
    "a number of devices, a list of them or auto",
    lambda value: value in ("auto", -1) or isinstance(value, list) or (str(value).isdecimal() and int(value) > 0),
)

ObjectConfig = Annotated[
    dict[str, Any],
    Kind("a choice that makes an object (_target_)", lambda value: isinstance(value, Mapping) and "_target_" in value),
]

# The names that annotations use.
KINDS = {
    "int": whole_number("a whole number", lambda value: True),
    "float": number("a number", lambda value: True),
    "bool": Kind("true or false", lambda value: isinstance(value, bool)),
    "str": Kind("text", lambda value: isinstance(value, str)),
    "list": Kind("a list", lambda value: isinstance(value, list)),
    "tuple": Kind("a list", lambda value: isinstance(value, list)),
    "Sequence": Kind("a list", lambda value: isinstance(value, list)),
    "dict": Kind("a mapping", lambda value: isinstance(value, Mapping)),
    "Mapping": Kind("a mapping", lambda value: isinstance(value, Mapping)),
    "Any": ANYTHING,
    "Tensor": OBJECT,
    "PositiveInt": get_args(PositiveInt)[1],
    "NonNegativeInt": get_args(NonNegativeInt)[1],
    "Seed": get_args(Seed)[1],
    "PositiveFloat": get_args(PositiveFloat)[1],
    "NonNegativeFloat": get_args(NonNegativeFloat)[1],
    "Fraction": get_args(Fraction)[1],
    "Probability": get_args(Probability)[1],
    "ExistingPath": get_args(ExistingPath)[1],
    "CheckpointPath": get_args(CheckpointPath)[1],
    "ImagesPath": get_args(ImagesPath)[1],
    "Color": get_args(Color)[1],
    "FolderPath": get_args(FolderPath)[1],
    "ObjectConfig": get_args(ObjectConfig)[1],
    "ImageSize": choice(*get_args(ImageSize)),
    "Normalization": choice(*get_args(Normalization)),
}
