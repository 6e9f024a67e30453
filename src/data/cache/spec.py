"""What a store is made from, and what is known of it without making it again."""

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from src.data.cache.manifest import DAMAGE, short_digest

FORMAT = 1  # raise it when what is stored changes its meaning

Work = tuple[Callable[[Any], "list[Made]"], Iterable[Any], int | None]


@dataclass(frozen=True)
class Made:
    """One image, or the reason why there is none; digest: SHA-256 (hex) of what it was made from."""

    name: str
    digest: str
    pixels: np.ndarray | None = None  # uint8 (3, S, S)
    size: tuple[int, int] = (0, 0)  # width and height before it was resized
    reason: str = ""
    unreadable: bool = False


class Recipe(Protocol):
    """What a store is made from, and how."""

    @property
    def title(self) -> str:
        """For people: the name of the folder, archive or set."""

    @property
    def identity(self) -> str:
        """Where the images come from, whatever is there now."""

    @property
    def image_size(self) -> int: ...

    @property
    def options(self) -> Mapping[str, Any]:
        """All that decides about pixels besides the images' content: plain values."""

    def state(self) -> str:
        """Changes whenever the images may have changed, without reading them; empty: not known."""

    def digests(self) -> Iterator[tuple[str, str]]:
        """Name and digest of everything that work() leads to, decoded or not."""

    def work(self) -> Work:
        """A function for threads, what to call it on, and how many images that will be, if known."""

    def sorted_by(self, name: str) -> Any:
        """The order of the images."""

    def columns(self, images: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """What else is to be known of each image, int64 (N,); "group" among it where there are near-duplicates."""

    def factors(self) -> np.ndarray | None:
        """float32 (N, F), in order."""


def store_key(recipe: Recipe, content: str) -> str:
    return short_digest(FORMAT, content, sorted(recipe.options.items()))


def lock_id(recipe: Recipe) -> str:
    return short_digest(recipe.identity, sorted(recipe.options.items()))


def content_of(digests: Iterable[tuple[str, str]]) -> str:
    """One digest of everything that a source holds."""
    return short_digest(sorted(digests))


def known_content(recipe: Recipe, root: Path, whatever_the_state: bool = False) -> str | None:
    """What the source held when it was last read, unless it may have changed since."""
    try:
        record = json.loads(_record(recipe, root).read_bytes())
        if whatever_the_state or (record["state"] and record["state"] == recipe.state()):
            return str(record["content"])
    except DAMAGE:
        pass
    return None


def read_content(recipe: Recipe, root: Path) -> str | None:
    """What the source holds, for which it is read if it has been before: then it is likely the same."""
    known = known_content(recipe, root)
    if known is None and known_content(recipe, root, whatever_the_state=True):
        state = recipe.state()
        known = content_of(recipe.digests())
        remember(recipe, root, state, known)
    return known


def remember(recipe: Recipe, root: Path, state: str, content: str) -> None:
    """state: what it was before the source was read; if it is another by now, it says nothing of the content."""
    path = _record(recipe, root)
    path.parent.mkdir(exist_ok=True)
    record = {"of": recipe.identity, "state": state if state == recipe.state() else "", "content": content}
    written = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    written.write_text(json.dumps(record))
    os.replace(written, path)


def _record(recipe: Recipe, root: Path) -> Path:
    return root / "known" / f"{short_digest(recipe.identity)}.json"
