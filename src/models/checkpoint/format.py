"""The format of a checkpoint: a safetensors file that holds tensors by path and, in its metadata, one JSON tree.

The tree is everything else: dicts, lists and plain values, with a reference wherever a tensor belongs. What JSON lacks
is a dict with one key that begins with `$`: a tensor, a tuple, a dict with keys other than texts, a number that is not
finite. The metadata also holds the SHA-256 of the whole file, taken with zeros in place of its digits.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from src.core.errors import UserError

CHECKSUM_KEY, NO_CHECKSUM = b'"sha256":"', b"0" * 64
# Bounds on what is read before anything of it is used. A real header has less than a hundredth of the first two.
MAX_HEADER_BYTES, MAX_VALUES, MAX_DEPTH, MAX_BITS, MAX_AXES = 16_000_000, 300_000, 48, 64, 8


def to_bytes(checkpoint: dict[str, Any]) -> bytes:
    """Return the content of a checkpoint's file. Raises TypeError for a value that is neither plain nor a tensor."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(encode(checkpoint, "", tensors), allow_nan=False)
    return bytes(with_checksum(safetensors.torch.save(tensors, {"tree": tree, "sha256": NO_CHECKSUM.decode()})))


def with_checksum(content: bytes) -> bytearray:
    """Return a file's content with the SHA-256 that belongs into it."""
    filled = bytearray(content)
    # Quotes within the tree are escaped, so the key is found nowhere else.
    start = filled.index(CHECKSUM_KEY) + len(CHECKSUM_KEY)
    digits = slice(start, start + len(NO_CHECKSUM))
    filled[digits] = NO_CHECKSUM
    filled[digits] = hashlib.sha256(filled).hexdigest().encode()
    return filled


def encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value for JSON; the tensors in it are added to `tensors`, by their paths."""
    match value:
        case Tensor():
            name = path if path not in tensors else f"{path}#{len(tensors)}"
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            # Steps of an optimizer in another layout of memory would round differently.
            last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
            return {"$channels_last" if last and not value.is_contiguous() else "$tensor": name}
        case dict() if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: encode(item, f"{path}.{key}".lstrip("."), tensors) for key, item in value.items()}
        case dict():
            return {"$dict": [[key, encode(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
        case list() | tuple():
            items = [encode(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        case float() if not math.isfinite(value):
            return {"$float": str(value)}
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{path} is a {type(value).__name__}: a checkpoint holds tensors and plain values only")


def read_file(path: str | Path) -> dict[str, Any]:
    """Return what to_bytes was given: tensors on the CPU and plain values, exactly.

    Takes memory for about twice the file. Raises UserError, in one sentence, where the file can't be read, is cut
    short, has no checksum or another one, or holds what to_bytes does not write.
    """
    try:
        with Path(path).open("rb") as file:
            content, tree = read_content(file)
        return decode(tree, safetensors.torch.load(content))
    except OSError as error:
        reason = error.strerror or str(error)
    except MemoryError:
        reason = "it does not fit into the memory"
    # AttributeError, AssertionError: safetensors does not know a type of numbers, or that a shape has no bytes.
    except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError, AttributeError, AssertionError) as error:
        reason = " ".join(ascii(str(error))[1:-1].split())[:200] or type(error).__name__
    raise UserError(f"can't read the checkpoint {path}: {reason}; give a run folder, or a file of its checkpoints/")


def read_content(file: BinaryIO) -> tuple[bytes, str]:
    """Return a file's content and the tree in it. Raises ValueError where it is not whole, or its parsers' errors."""
    length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
    header = file.read(length) if length <= MAX_HEADER_BYTES else b""
    if not header.startswith(b"{"):
        raise ValueError("it is no checkpoint of this project")
    if len(header) < length:
        raise ValueError("it is not whole, it ends within its header")
    if CHECKSUM_KEY not in header:
        raise ValueError("it has no checksum, so it is no checkpoint of this project")
    if header.count(b",") > MAX_VALUES:
        raise ValueError(f"its header holds more than {MAX_VALUES:,} values")
    entries = json.loads(header)
    tree = entries.pop("__metadata__")["tree"]
    if size != 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0):
        raise ValueError("it is not whole, its size is not what its header says")
    file.seek(0)
    content = file.read()
    if content != with_checksum(content):
        raise ValueError("it is damaged, its content does not match its checksum")
    return content, tree


def decode(tree: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the checkpoint that a tree stands for. Raises ValueError for what to_bytes does not write."""

    def number(text: str) -> int | float:
        value = int(text) if text.lstrip("-").isdecimal() else float(text)
        if not math.isfinite(value):
            raise ValueError("one of its numbers is too large")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise ValueError(f"one of its numbers has {value.bit_length():,} bits")
        return value

    def special(node: dict[str, Any]) -> Any:
        match list(node.items()):
            case [("$tensor" | "$channels_last" as kind, str(name))]:
                if name not in tensors:
                    raise ValueError(f"its tensor {name} is missing")
                # Removed: what is left in the end belongs to nothing.
                tensor = tensors.pop(name)
                return tensor.contiguous(memory_format=torch.channels_last) if kind == "$channels_last" else tensor
            case [("$tuple", list(items))]:
                return tuple(items)
            case [("$dict", list(pairs))]:
                return dict(pairs)
            case [("$float", "nan" | "inf" | "-inf" as text)]:
                return float(text)
        return node

    for name, tensor in tensors.items():
        if tensor.ndim > MAX_AXES or (tensor.is_floating_point() and tensor.element_size() < 2):
            raise ValueError(f"its tensor {name} has {tensor.ndim} axes of {tensor.dtype}, which no checkpoint has")
    checkpoint = json.loads(tree, parse_int=number, parse_float=number, parse_constant=number, object_hook=special)
    if depth(checkpoint) > MAX_DEPTH:
        raise ValueError(f"its values are nested more than {MAX_DEPTH} deep")
    if tensors:
        raise ValueError(f"its tensor {min(tensors)} belongs to nothing")
    return checkpoint


def depth(value: Any) -> int:
    """Return how deep a value is nested: 0 for one that holds no others."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return max((1 + depth(item) for item in items), default=0)
