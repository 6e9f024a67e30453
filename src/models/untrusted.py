"""Reading a file that nobody vouches for: nothing in it is run, and it takes no more memory than it has bytes."""

import pickletools
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

# All that the pickle of tensors and plain values names.
NAMED = re.compile(r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage|torch Size")
OTHER_WAYS_TO_NAME = ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")
MOST_VALUES, DEEPEST, LONGEST_NUMBER = 300_000, 48, 64  # values in a file, levels of nesting, bits


class UntrustedFile(Exception):
    """Why a file is not read, as the end of a sentence: `it ...`."""


def read_plain(path: Path) -> Any:
    """What torch.save wrote: tensors and plain values. Refused, or what torch.load raises of a damaged file."""
    inspect_archive(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    inspect_values(content, path.stat().st_size)
    return content


def inspect_archive(path: Path) -> None:
    """Looks at a zip file as torch writes it, before anything is loaded."""
    with zipfile.ZipFile(path) as archive:
        files = archive.infolist()
        for file in files:
            name = PurePosixPath(file.filename)
            if name.is_absolute() or ".." in name.parts:
                raise UntrustedFile(f"it holds a file {file.filename}, outside of itself")
            if file.compress_type != zipfile.ZIP_STORED:
                raise UntrustedFile("it is compressed, which no checkpoint is")
        if sum(file.file_size for file in files) > path.stat().st_size:
            raise UntrustedFile("it declares more bytes than it has")
        pickles = [file for file in files if file.filename.endswith(".pkl")]
        if [PurePosixPath(file.filename).name for file in pickles] != ["data.pkl"]:
            raise UntrustedFile("it is another kind of archive")
        for operation, argument, _ in pickletools.genops(archive.read(pickles[0])):
            if operation.name == "GLOBAL" and not NAMED.fullmatch(str(argument)):
                asked = ascii(argument)[1:-1].replace(" ", ".")
                raise UntrustedFile(f"it asks for {asked:.100}")
            if operation.name in OTHER_WAYS_TO_NAME:
                raise UntrustedFile("it builds objects of its own")


def inspect_values(content: Any, num_bytes: int) -> None:
    """Walks over all that was loaded: few enough, not too deep, plain, and no tensor larger than the file."""
    waiting, seen, tensor_bytes = [("", content, 0)], 0, 0
    while waiting:
        path, node, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES or depth > DEEPEST:
            raise UntrustedFile("its values are nested without end")
        if isinstance(node, dict):
            waiting += [(f"{path}.{key}", key, depth + 1) for key in node if not isinstance(key, str | int)]
            waiting += [(f"{path}.{key}", value, depth + 1) for key, value in node.items()]
        elif isinstance(node, list | tuple):
            waiting += [(f"{path}[{index}]", value, depth + 1) for index, value in enumerate(node)]
        elif isinstance(node, Tensor):
            tensor_bytes += node.numel() * node.element_size()
            if node.layout != torch.strided or node.is_quantized or tensor_bytes > 2 * num_bytes:
                raise UntrustedFile(
                    f"its tensor {path.lstrip('.')} of shape {list(node.shape)} is more than the file holds"
                )
        elif isinstance(node, int) and node.bit_length() > LONGEST_NUMBER:
            raise UntrustedFile(f"its {path.lstrip('.')} is a number of {node.bit_length():,} bits")
        elif not isinstance(node, str | int | float | bool | None):
            raise UntrustedFile(f"its {path.lstrip('.')} is a {type(node).__name__}, which is no plain value")
