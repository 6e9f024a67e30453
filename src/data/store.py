"""Decoded pictures, kept: made once, in parallel, and read by every run, process and user from then on.

    <store_dir>/<title>-<size>px-<key>/  one store; the key is of the pictures' contents and of how they are decoded
        pixels                           uint8 (N, 3, S, S), nothing else
        factors.npy                      float32 (N, F), where the source knows what it drew
        manifest.json, manifest.sha256   every picture, and every file that gave none
    <store_dir>/known/                   what each source held when it was last read, by its files' sizes and times
    <store_dir>/locks/                   one builder of a store at a time

A store is made anew when and only when names, contents or decoding change: where sizes or times of files have changed,
their contents are read and compared, not decoded. It is built in a hidden folder and renamed when it is whole, so a
killed build leaves nothing that is taken for a store; the next build sweeps it away.
"""

import fcntl
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch

from src.data.parallel import in_threads
from src.data.pictures import Pictures, StoredPixels
from src.errors import UserError
from src.progress import watched

FORMAT = 1  # raise it when what is stored changes its meaning
MOST_UNREADABLE = 0.05
EXAMPLES = 5
DAMAGE = (OSError, ValueError, LookupError, TypeError)  # what reading a store raises that is not whole

OnError = Literal["skip", "stop"]
Work = tuple[Callable[[Any], "list[Made]"], Iterable[Any], int | None]


@dataclass(frozen=True)
class Made:
    """One picture, or the reason why there is none; digest: SHA-256 (hex) of what it was made from."""

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
        """Where the pictures come from, whatever is there now."""

    @property
    def image_size(self) -> int: ...

    @property
    def options(self) -> Mapping[str, Any]:
        """All that decides about pixels besides the pictures' content: plain values."""

    def state(self) -> str:
        """Changes whenever the pictures may have changed, without reading them; empty: not known."""

    def digests(self) -> Iterator[tuple[str, str]]:
        """Name and digest of everything that make() would tell of, decoded or not."""

    def work(self) -> Work:
        """A function for threads, what to call it on, and how many pictures that will be, if known."""

    def sorted_by(self, name: str) -> Any:
        """The order of the pictures."""

    def columns(self, images: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """What else is to be known of each picture, int64 (N,); "group" among it where there are near-duplicates."""

    def factors(self) -> np.ndarray | None:
        """float32 (N, F), in order."""


@dataclass
class Manifest:
    """What a store holds, in the order of its pictures."""

    names: list[str]
    digests: list[str]
    sizes: list[tuple[int, int]]
    rows: list[int]
    columns: dict[str, list[int]]
    left_out: list[tuple[str, str]]
    about: dict[str, Any] = field(default_factory=dict)

    HEAD = ("name", "sha256", "width", "height", "row")

    def write(self, folder: Path) -> None:
        columns = zip(*self.columns.values(), strict=True) if self.columns else [()] * len(self.names)
        lines = [
            json.dumps([name, digest, *size, row, *others])
            for name, digest, size, row, others in zip(
                self.names, self.digests, self.sizes, self.rows, columns, strict=True
            )
        ]
        head = self.about | {"left_out": self.left_out, "columns": [*self.HEAD, *self.columns]}
        text = json.dumps(head, indent=1)[:-2] + ',\n "pictures": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
        _write(folder / "manifest.json", text.encode())
        digest = hashlib.sha256(text.encode()).hexdigest()
        _write(folder / "manifest.sha256", f"{digest}  manifest.json\n".encode())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """ValueError: damaged."""
        content = (folder / "manifest.json").read_bytes()
        if (folder / "manifest.sha256").read_text().split()[:1] != [hashlib.sha256(content).hexdigest()]:
            raise ValueError("manifest.json has changed")
        about = json.loads(content)
        names, digests, widths, heights, rows, *others = zip(*about.pop("pictures"), strict=True)
        columns = dict(zip(about.pop("columns")[len(cls.HEAD) :], map(list, others), strict=True))
        sizes = list(zip(widths, heights, strict=True))
        left_out = [(name, reason) for name, reason in about.pop("left_out")]
        return cls(list(names), list(digests), sizes, list(rows), columns, left_out, about)


def default_store_dir() -> Path:
    """`cat-faces/store` in the user's cache: $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cat-faces" / "store"


def open_store(recipe: Recipe, store_dir: str | Path | None = None, on_error: OnError = "skip") -> Pictures:
    """The recipe's pictures, from the store; built first if there is none, by one process while the others wait.

    on_error=stop: no picture may be left out. UserError: more than 5% can't be read, or the store can't be written.
    """
    root = Path(store_dir).expanduser().absolute() if store_dir else default_store_dir()
    pictures = _find(recipe, root, _known_content(recipe, root))
    if pictures is None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with _locked(root, _lock_id(recipe), f"another process is decoding {recipe.title}; waiting for it"):
                pictures = _find(recipe, root, _read_content(recipe, root)) or _build(recipe, root, on_error)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"can't keep the decoded pictures in {root}: {reason}; make room there or give another folder with "
                "data.store_dir=..."
            ) from error
    if on_error == "stop" and pictures.left_out:
        raise _stopped(recipe, *pictures.left_out[0])
    return pictures


def _key(recipe: Recipe, content: str) -> str:
    return _short_digest(FORMAT, content, sorted(recipe.options.items()))


def _lock_id(recipe: Recipe) -> str:
    return _short_digest(recipe.identity, sorted(recipe.options.items()))


def _folder(recipe: Recipe, root: Path, content: str) -> Path:
    title = re.sub(r"[^A-Za-z0-9._-]+", "-", recipe.title).strip(".-") or "pictures"
    return root / f"{title[:60]}-{recipe.image_size}px-{_key(recipe, content)}"


def _record(recipe: Recipe, root: Path) -> Path:
    return root / "known" / f"{_short_digest(recipe.identity)}.json"


def _known_content(recipe: Recipe, root: Path, whatever_the_state: bool = False) -> str | None:
    """What the source held when it was last read, unless it may have changed since."""
    try:
        record = json.loads(_record(recipe, root).read_bytes())
        if whatever_the_state or (record["state"] and record["state"] == recipe.state()):
            return str(record["content"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return None


def _read_content(recipe: Recipe, root: Path) -> str | None:
    """What the source holds, for which it is read if it has been before: then it is likely the same."""
    known = _known_content(recipe, root)
    if known is None and _known_content(recipe, root, whatever_the_state=True):
        state = recipe.state()
        known = _content(recipe.digests())
        _remember(recipe, root, state, known)
    return known


def _remember(recipe: Recipe, root: Path, state: str, content: str) -> None:
    path = _record(recipe, root)
    path.parent.mkdir(exist_ok=True)
    unchanged = state == recipe.state()
    record = {"of": recipe.identity, "state": state if unchanged else "", "content": content}
    written = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    written.write_text(json.dumps(record))
    os.replace(written, path)


def _content(digests: Iterable[tuple[str, str]]) -> str:
    return _short_digest(sorted(digests))


def _short_digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _find(recipe: Recipe, root: Path, content: str | None) -> Pictures | None:
    """The store of this content, if it is there and whole."""
    if content is None:
        return None
    try:
        return _open(_folder(recipe, root, content))
    except DAMAGE:  # told when it is replaced
        return None


def _open(folder: Path) -> Pictures:
    """Raises one of DAMAGE."""
    manifest = Manifest.read(folder)
    size = manifest.about["image_size"]
    pixels = StoredPixels(
        folder / "pixels",
        (len(manifest.names), 3, size, size),
        _short_digest(manifest.about["format"], sorted(manifest.about["options"].items())),
    )
    stat = os.stat(folder / "pixels")
    num_bytes = math.prod(pixels.shape)
    if stat.st_size != num_bytes:
        raise ValueError(f"{stat.st_size} bytes instead of {num_bytes}")
    # Hashing all of it takes its time; nobody writes to it, so its time tells.
    if stat.st_mtime_ns != manifest.about["modified_ns"] and _file_digest(pixels.path) != manifest.about["sha256"]:
        raise ValueError("the pixels have changed")
    factors = None
    if manifest.about["factors_sha256"]:
        if _file_digest(folder / "factors.npy") != manifest.about["factors_sha256"]:
            raise ValueError("factors.npy has changed")
        factors = torch.from_numpy(np.load(folder / "factors.npy"))
    columns = {name: torch.tensor(values) for name, values in manifest.columns.items()}
    columns["size"] = torch.tensor(manifest.sizes)
    origins = bytearray.fromhex("".join(manifest.digests))
    columns["sha256"] = torch.frombuffer(origins, dtype=torch.uint8).view(-1, 32)
    return Pictures(
        pixels,
        torch.tensor(manifest.rows),
        manifest.names,
        columns.pop("group"),
        factors,
        columns,
        left_out=tuple(manifest.left_out),
        manifest=folder / "manifest.json",
    )


def _build(recipe: Recipe, root: Path, on_error: OnError) -> Pictures:
    """Makes the store and publishes it; the lock is held."""
    lock_id = _lock_id(recipe)
    _sweep(root, lock_id)
    state = recipe.state()
    folder = root / f".building-{lock_id}-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        manifest, content = _fill(recipe, folder, on_error)
        manifest.write(folder)
        target = _folder(recipe, root, content)
        _publish(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _remember(recipe, root, state, content)
    return _open(target)


def _fill(recipe: Recipe, folder: Path, on_error: OnError) -> tuple[Manifest, str]:
    """Writes the pixels; returns the manifest and what the source held."""
    made: list[Made] = []
    left_out: list[Made] = []
    sha256 = hashlib.sha256()
    work, items, total = recipe.work()
    with (folder / "pixels").open("wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on what it reads
        for batch in watched(in_threads(work, items), total, f"decoding {recipe.title}"):
            for picture in batch:
                if picture.pixels is None:
                    left_out.append(picture)
                    if on_error == "stop":
                        raise _stopped(recipe, picture.name, picture.reason)
                    continue
                file.write(picture.pixels.data)
                sha256.update(picture.pixels.data)
                made.append(Made(picture.name, picture.digest, None, picture.size))
        file.flush()
        os.fsync(file.fileno())
    _check_unreadable(recipe, left_out, len(made))

    order = sorted(range(len(made)), key=lambda row: recipe.sorted_by(made[row].name))
    names = [made[row].name for row in order]
    pixels = StoredPixels(folder / "pixels", (len(made), 3, recipe.image_size, recipe.image_size), "")
    columns = recipe.columns(cast(np.ndarray, _Rows(pixels, order)), names)
    factors = recipe.factors()
    if factors is not None:
        array = io.BytesIO()
        np.save(array, factors)
        _write(folder / "factors.npy", array.getvalue())
    about = {
        "format": FORMAT,
        "of": recipe.identity,
        "options": dict(recipe.options),
        "image_size": recipe.image_size,
        "sha256": sha256.hexdigest(),
        "modified_ns": os.stat(folder / "pixels").st_mtime_ns,
        "factors_sha256": _file_digest(folder / "factors.npy") if factors is not None else None,
    }
    manifest = Manifest(
        names,
        [made[row].digest for row in order],
        [made[row].size for row in order],
        order,
        {name: values.tolist() for name, values in columns.items()},
        sorted((picture.name, picture.reason) for picture in left_out),
        about,
    )
    return manifest, _content((picture.name, picture.digest) for picture in [*made, *left_out])


class _Rows:
    """Stored pixels in another order, read slice by slice as if they were an array."""

    def __init__(self, pixels: StoredPixels, order: list[int]) -> None:
        self.pixels, self.order = pixels, torch.tensor(order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, positions: slice | np.ndarray) -> np.ndarray:
        return self.pixels.gather(self.order[positions]).numpy()


def _stopped(recipe: Recipe, name: str, reason: str) -> UserError:
    return UserError(
        f"can't read {name} of {recipe.title}: {reason}; mend or remove it, or leave it out with data.on_error=skip"
    )


def _check_unreadable(recipe: Recipe, left_out: list[Made], num_made: int) -> None:
    unreadable = [picture for picture in left_out if picture.unreadable]
    total = num_made + len(left_out)
    shown = unreadable if len(unreadable) > MOST_UNREADABLE * total else left_out if not num_made else []
    if shown:
        examples = "; ".join(f"{picture.name} ({picture.reason})" for picture in shown[:EXAMPLES])
        raise UserError(
            f"can't use {len(shown)} of {total} pictures of {recipe.title}, and at most {MOST_UNREADABLE:.0%} are left "
            f"out: {examples}; mend or remove them"
        )


def _publish(folder: Path, target: Path) -> None:
    _sync(folder)
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise
        try:
            _open(target)  # somebody else has made it, from the same pictures elsewhere
        except DAMAGE as error:
            print(f"the decoded pictures in {target} were damaged ({error}) and are made anew", file=sys.stderr)
            damaged = folder.with_name(f"{folder.name}-damaged")
            os.rename(target, damaged)
            os.rename(folder, target)
            shutil.rmtree(damaged, ignore_errors=True)
    _sync(target.parent)


def _sweep(root: Path, own_lock_id: str) -> None:
    """Removes what killed builds have left: that whose lock nobody holds."""
    for leftover in root.glob(".building-*"):
        lock_id = leftover.name.split("-")[1]
        file = os.open(root / "locks" / lock_id, os.O_RDONLY | os.O_CREAT, 0o666) if lock_id != own_lock_id else None
        try:
            if file is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        except OSError:
            pass  # it is being built
        finally:
            if file is not None:
                os.close(file)


@contextmanager
def _locked(root: Path, lock_id: str, message: str, patience_s: float = 2.0) -> Iterator[None]:
    """Holds the lock, which ends with the process whatever happens to it; the message is shown to who waits long."""
    (root / "locks").mkdir(exist_ok=True)
    file = os.open(root / "locks" / lock_id, os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        message_at = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if message and time.monotonic() > message_at:
                    print(message, file=sys.stderr, flush=True)
                    message = ""
                time.sleep(0.05)
        yield
    finally:
        os.close(file)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """What the folder lists is on the disk too."""
    with suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
