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
    tree = json.dumps(_encode(checkpoint, "", tensors), allow_nan=False)
    content = safetensors.torch.save(tensors, {"tree": tree, "sha256": NO_CHECKSUM.decode()})
    # Quotes within the tree are escaped, so this is found nowhere else.
    start = content.index(CHECKSUM_KEY) + len(CHECKSUM_KEY)
    return content[:start] + _sha256(content, start) + content[start + len(NO_CHECKSUM) :]


def read_file(path: str | Path) -> dict[str, Any]:
    """Return what to_bytes was given: tensors on the CPU and plain values, exactly.

    Takes memory for about twice the file. Raises UserError, in one sentence, where the file can't be read, is cut
    short, has no checksum or another one, or holds what to_bytes does not write.
    """
    try:
        with Path(path).open("rb") as file:
            return _read(file)
    except OSError as error:
        reason = error.strerror or str(error)
    except MemoryError:
        reason = "it does not fit into the memory"
    # AttributeError, AssertionError: safetensors does not know a type of numbers, or that a shape has no bytes.
    except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError, AttributeError, AssertionError) as error:
        reason = " ".join(ascii(str(error))[1:-1].split())[:200] or type(error).__name__
    raise UserError(f"can't read the checkpoint {path}: {reason}; give a run folder, or a file of its checkpoints/")


def _read(file: BinaryIO) -> dict[str, Any]:
    """Return what a file holds. Raises ValueError with what is wrong, or whatever its parsers raise."""
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
    metadata = entries.pop("__metadata__")
    if size != 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0):
        raise ValueError("it is not whole, its size is not what its header says")
    file.seek(0)
    content = file.read()
    start = content.index(CHECKSUM_KEY) + len(CHECKSUM_KEY)
    if content[start : start + len(NO_CHECKSUM)] != _sha256(content, start):
        raise ValueError("it is damaged, its content does not match its checksum")
    tensors = safetensors.torch.load(content)
    for name, tensor in tensors.items():
        if tensor.ndim > MAX_AXES or (tensor.is_floating_point() and tensor.element_size() < 2):
            raise ValueError(f"its tensor {name} has {tensor.ndim} axes of {tensor.dtype}, which no checkpoint has")
    unused = set(tensors)
    checkpoint = _decode(json.loads(metadata["tree"]), tensors, unused)
    if unused:
        raise ValueError(f"its tensor {min(unused)} belongs to nothing")
    if not isinstance(checkpoint, dict):
        raise ValueError("it is no checkpoint of this project")
    return checkpoint


def _sha256(content: bytes, start: int) -> bytes:
    """Return the SHA-256 of a file's content in hexadecimal, with zeros for the checksum that starts there."""
    view = memoryview(content)
    digest = hashlib.sha256(view[:start])
    digest.update(NO_CHECKSUM)
    digest.update(view[start + len(NO_CHECKSUM) :])
    return digest.hexdigest().encode()


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value for JSON; the tensors in it are added to `tensors`, by their paths."""
    match value:
        case Tensor():
            name = path if path not in tensors else f"{path}#{len(tensors)}"
            channels_last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            # Steps of an optimizer in another layout of memory would round differently.
            last = channels_last and not value.is_contiguous()
            return {"$channels_last" if last else "$tensor": name}
        case dict() if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _encode(item, f"{path}.{key}".lstrip("."), tensors) for key, item in value.items()}
        case dict():
            return {"$dict": [[key, _encode(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
        case list() | tuple():
            items = [_encode(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        case float() if not math.isfinite(value):
            return {"$float": str(value)}
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{path} is a {type(value).__name__}: a checkpoint holds tensors and plain values only")


def _decode(node: Any, tensors: dict[str, Tensor], unused: set[str], depth: int = 0) -> Any:
    """Return the value that a node of the tree stands for; tensors that it uses are removed from `unused`."""
    if depth > MAX_DEPTH:
        raise ValueError(f"its values are nested more than {MAX_DEPTH} deep")
    if isinstance(node, list):
        return [_decode(item, tensors, unused, depth + 1) for item in node]
    if isinstance(node, dict):
        match list(node.items()):
            case [("$tensor" | "$channels_last" as kind, str(name))]:
                if name not in tensors:
                    raise ValueError(f"its tensor {name} is missing")
                unused.discard(name)
                last = kind == "$channels_last"
                return tensors[name].contiguous(memory_format=torch.channels_last) if last else tensors[name]
            case [("$tuple", list(items))]:
                return tuple(_decode(items, tensors, unused, depth + 1))
            case [("$dict", list(pairs))]:
                return {key: _decode(item, tensors, unused, depth + 1) for key, item in pairs}
            case [("$float", "nan" | "inf" | "-inf" as text)]:
                return float(text)
        return {key: _decode(item, tensors, unused, depth + 1) for key, item in node.items()}
    if isinstance(node, float) and not math.isfinite(node):
        raise ValueError("one of its numbers is too large")
    if isinstance(node, int) and node.bit_length() > MAX_BITS:
        raise ValueError(f"one of its numbers has {node.bit_length():,} bits")
    return node
