"""What a process does that builds a store: the tests of src.data.store start it, and kill it."""

import hashlib
import sys
from pathlib import Path

from src.data.pictures import Pictures
from src.data.sources import Folder


def pixels_digest(pictures: Pictures) -> str:
    return hashlib.sha256(repr(pictures.names).encode() + pictures[:].numpy().tobytes()).hexdigest()


def build(folder: Path, store_dir: Path, result: Path) -> None:
    """Writes what it has got when it has it, and what it says meanwhile beside it."""
    sys.stderr = result.with_suffix(".err").open("w", buffering=1)
    result.write_text(pixels_digest(Folder(folder).load(32, store_dir)))
