"""Types of options: what an annotation says beyond int or str, such as a range, or a path that must exist.

A constructor's signature is the schema of its config; src/config/validation.py checks with pydantic what users type.
A description completes the sentence "give ...". The message of a validator's ValueError says what is wrong.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from src.core.run_folder import CHECKPOINTS, CONFIG, EXPORTED

IMAGES = (".png", ".jpg", ".jpeg", ".heic", ".heif", ".avif", ".webp", ".gif", ".bmp", ".tif", ".tiff")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


def refuse(is_wrong: Callable[[Any], bool], reason: str = "") -> BeforeValidator:
    """Make a validator that raises ValueError(reason) for some values; "not allowed here" is said without a reason."""

    def validate(value: Any) -> Any:
        if is_wrong(value):
            raise ValueError(reason)
        return value

    return BeforeValidator(validate)


def names_target(value: object) -> bool:
    """Tell whether a part of a config says which object it makes."""
    return isinstance(value, Mapping) and "_target_" in value


def color(value: object) -> str:
    """Return a color that Pillow knows; six digits may lack their #, which a command line would want quoted twice."""
    from PIL import ImageColor

    name = f"#{value}" if re.fullmatch("[0-9a-fA-F]{6}", str(value)) else str(value)
    if len(ImageColor.getrgb(name)) != 3:
        raise ValueError(f"{name} is transparent")
    return name


def existing_path(value: str) -> str:
    """Return the absolute path: a run folder keeps it, and may be used from another folder."""
    path = Path(value).expanduser().absolute()
    if not value or not path.exists():
        raise ValueError("there is nothing at this path")
    return str(path)


def images_path(value: str) -> str:
    """Return the path of a folder with images, or of an archive; data/ reads it closely."""
    path = Path(existing_path(value))
    if path.is_dir() and not any(file.suffix.lower() in IMAGES for file in path.rglob("*")):
        raise ValueError("this folder holds no images" if any(path.iterdir()) else "this folder is empty")
    if path.is_file() and not path.name.lower().endswith(ARCHIVES):
        raise ValueError("this is a file, but no archive")
    return str(path)


def checkpoint_path(value: str) -> str:
    """Return the path of a checkpoint, a run folder or an exported folder; models/checkpoint reads it closely."""
    path = Path(existing_path(value))
    is_run = path.name == CHECKPOINTS or any((path / name).exists() for name in (CHECKPOINTS, CONFIG, EXPORTED))
    if path.is_dir() and not is_run:
        raise ValueError("this folder holds no run" if any(path.iterdir()) else "this folder is empty")
    if path.is_file() and not path.stat().st_size:
        raise ValueError("this file is empty")
    return str(path)


def folder_path(value: str, writable: bool = False) -> str:
    """Return the path of a folder that is there or can be made (and written to): no file lies on the way to it."""
    path = Path(value).expanduser()
    there = next(part for part in (path, *path.absolute().parents) if part.exists())
    if not value or not there.is_dir():
        raise ValueError(f"{there} is a file, not a folder" if value else "")
    if writable and not os.access(there, os.W_OK):
        raise ValueError(f"no permission to write to {there}")
    return str(path)


# max_images of a run whose budget is given in seconds, until its speed is measured.
UNMEASURED = 2**62
NUMBER = refuse(lambda value: isinstance(value, bool | str))
WholeNumber = Annotated[int, NUMBER, Field(description="a whole number")]  # 2e5 is one too
PositiveInt = Annotated[WholeNumber, Field(ge=1, description="a whole number of at least 1")]
BatchSize = Annotated[PositiveInt, Field(le=65_536, description="a whole number from 1 to 65,536")]
GridImages = Annotated[PositiveInt, Field(le=4_096, description="a whole number from 1 to 4,096")]
DrawnImages = Annotated[PositiveInt, Field(le=1_000_000, description="a whole number from 1 to 1,000,000")]
NonNegativeInt = Annotated[WholeNumber, Field(ge=0, description="a whole number of at least 0")]
# More bits than 32 a generator on the CPU does not read.
Seed = Annotated[WholeNumber, Field(ge=0, lt=2**32, description="a whole number from 0 to 2^32 - 1")]
Port = Annotated[WholeNumber, Field(ge=1, le=65_535, description="a whole number from 1 to 65,535")]
Number = Annotated[float, NUMBER, Field(allow_inf_nan=False, description="a number")]
PositiveFloat = Annotated[Number, Field(gt=0, description="a number above 0")]
NonNegativeFloat = Annotated[Number, Field(ge=0, description="a number of at least 0")]
Fraction = Annotated[Number, Field(ge=0, lt=1, description="a number of at least 0 and below 1")]
Probability = Annotated[Number, Field(ge=0, le=1, description="a number from 0 to 1")]
Color = Annotated[str, BeforeValidator(color), Field(description="a color (white, ff8000, ...)")]
ImageSize = Literal[32, 64, 128, 256]
Normalization = Literal["none", "batch", "group"]

ExistingPath = Annotated[str, AfterValidator(existing_path), Field(description="a path that exists")]
ImagesPath = Annotated[
    str,
    AfterValidator(images_path),
    Field(description=f"a folder, {', '.join(ARCHIVES)} of {', '.join(IMAGES)} files"),
]
CheckpointPath = Annotated[str, AfterValidator(checkpoint_path), Field(description="a checkpoint or its run folder")]
FolderPath = Annotated[str, AfterValidator(folder_path), Field(description="the path of a folder")]
OutputPath = Annotated[
    str, AfterValidator(partial(folder_path, writable=True)), Field(description="the path of a folder to write to")
]

Devices = Annotated[
    Literal["auto", -1] | PositiveInt | list[NonNegativeInt],
    refuse(lambda value: str(value) == "0", "a run needs at least one device"),
    Field(description="a number of devices, a list of them or auto"),
]
# What the config makes: any annotation that no other type here stands for.
Object = Annotated[
    Any,
    refuse(lambda value: not (callable(value) or names_target(value))),
    Field(description="an object (_target_)"),
]
ObjectConfig = Annotated[
    dict[str, Any],
    refuse(lambda value: not names_target(value)),
    Field(description="a choice that makes an object (_target_)"),
]
