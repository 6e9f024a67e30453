"""Checks a composed config against the constructors it names, before torch is imported: a mistyped key or value
ends at once with a sentence. Signatures are read from the source by `ast`, never by importing.
"""

import ast
import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from src.core.errors import UserError
from src.core.types import ANYTHING, DEVICES, KINDS, NOTHING, OBJECT, Kind, choice

# What the annotations of other people's constructors leave open.
FOREIGN = {
    "lightning.Trainer.precision": [choice("32-true", "bf16-mixed", "16-mixed", "64-true")],
    "lightning.Trainer.accelerator": [choice("auto", "cpu", "gpu", "mps")],
    "lightning.Trainer.devices": [DEVICES],
}
# Of torch's optimizers those that train here, and that a checkpoint may name.
OPTIMIZERS = tuple(f"torch.optim.{name}" for name in ("Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD"))
LONGEST_LIST = 16  # names in a sentence


class Mismatch(UserError):
    """A key whose value does not fit, and why."""

    def __init__(self, key: str, complaint: str) -> None:
        super().__init__(key + complaint)
        self.key, self.complaint = key, complaint


@dataclass(frozen=True)
class Parameter:
    kinds: list[Kind]
    required: bool


@dataclass(frozen=True)
class Signature:
    parameters: dict[str, Parameter]
    takes_others: bool


def module_source(module: str) -> Path | None:
    """Where a module's source lies, found without importing anything of it."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top else None
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0], *rest)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@cache
def find_definition(target: str) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """`package.module.Name` -> its module and definition, through the imports of package `__init__` files."""
    module, _, name = target.rpartition(".")
    source = module_source(module)
    if source is None:
        return None
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module:
            imported = {item.asname or item.name: item.name for item in node.names}
            if name in imported:
                package = ".".join(module.split(".")[: -node.level + 1 or None]) + "." if node.level else ""
                return find_definition(f"{package}{node.module}.{imported[name]}")
    return None


@cache
def signature_of(target: str) -> Signature | None:
    """The constructor's (or function's) parameters; None where the source does not show them."""
    found = find_definition(target)
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.ClassDef):
        constructors = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        if not constructors:
            return inherited_signature(module, node)
        function, skipped = constructors[0], 1
    else:
        function, skipped = node, 0
    arguments = [*function.args.posonlyargs, *function.args.args][skipped:]
    optional = len(function.args.defaults)
    required = {argument.arg for argument in arguments[: len(arguments) - optional]}
    required |= {a.arg for a, d in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True) if d is None}
    parameters = {
        argument.arg: Parameter(
            FOREIGN.get(f"{target}.{argument.arg}") or kinds_of(argument.annotation, target), argument.arg in required
        )
        for argument in [*arguments, *function.args.kwonlyargs]
    }
    if function.args.kwarg is None or not isinstance(node, ast.ClassDef):
        return Signature(parameters, takes_others=function.args.kwarg is not None)
    # A constructor that takes **options hands them to its base class, and itself gives what that one must have.
    base = inherited_signature(module, node)
    optional_here = {name: Parameter(inherited.kinds, False) for name, inherited in base.parameters.items()}
    return Signature(optional_here | parameters, base.takes_others)


def inherited_signature(module: str, node: ast.ClassDef) -> Signature:
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    signatures = [signature_of(f"{module}.{base}") for base in bases]
    return next((signature for signature in signatures if signature), Signature({}, takes_others=False))


def kinds_of(annotation: ast.expr | None, target: str) -> list[Kind]:
    """The alternatives an annotation allows."""
    match annotation:
        case ast.Constant(value=None):
            return [NOTHING]
        case ast.Constant(value=str() as text):
            return kinds_of(ast.parse(text, mode="eval").body, target)
        case ast.BinOp(left=left, right=right):
            return kinds_of(left, target) + kinds_of(right, target)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return [choice(*[ast.literal_eval(item) for item in getattr(choices, "elts", [choices])])]
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return [*kinds_of(inner, target), NOTHING]
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=alternatives)):
            return [kind for alternative in alternatives for kind in kinds_of(alternative, target)]
        case ast.Subscript(value=value):
            return kinds_of(value, target)
        case ast.Name(id=name) if name in KINDS:
            return [KINDS[name]]
        case None:
            return [ANYTHING]
        case _:
            return [OBJECT if target.startswith("src.") else ANYTHING]


def nearest_first(word: str, choices: list[str]) -> list[str]:
    return sorted(choices, key=lambda choice: -difflib.SequenceMatcher(None, word.lower(), choice.lower()).ratio())


def listed(word: str, choices: list[str]) -> str:
    names = nearest_first(str(word), choices)
    more = f" and {len(names) - LONGEST_LIST} more" if len(names) > LONGEST_LIST else ""
    return ", ".join(names[:LONGEST_LIST]) + more


def check(node: Any, path: str = "") -> Any:
    """The config (plain dicts and lists) checked against the signatures it names, numbers converted to their type.

    Raises UserError: the first value that does not fit, with what would.
    """
    if isinstance(node, list):
        return [check(item, f"{path}[{index}]") for index, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    target = str(node.get("_target_", ""))
    signature = signature_of(target) if target else None
    if signature is None and target and (target.startswith("src.") or "." not in target):
        raise Mismatch(
            f"{path}._target_".lstrip("."), f"={target}: there is no such class; give one as src.models.vae.VAE."
        )
    if target.startswith("torch.optim.") and target not in OPTIMIZERS:
        raise Mismatch(
            f"{path}._target_", f"={target}: not allowed here; give one of {listed(target, list(OPTIMIZERS))}."
        )
    if signature is None:
        return {key: check(value, f"{path}.{key}".lstrip(".")) for key, value in node.items()}
    checked = {}
    for key, value in node.items():
        name = f"{path}.{key}".lstrip(".")
        if key in ("_target_", "_partial_", "_convert_", "_recursive_", "_args_"):
            checked[key] = value
        elif key in signature.parameters:
            checked[key] = check(check_value(name, value, signature.parameters[key].kinds), name)
        elif signature.takes_others:
            checked[key] = check(value, name)
        elif value is None:
            continue  # left open by the command's own defaults, for choices that have it
        else:
            options = listed(key, list(signature.parameters))
            raise Mismatch(name, f": {node['_target_']} has no such option; it has {options}.")
    missing = [key for key, parameter in signature.parameters.items() if parameter.required and key not in checked]
    if missing and not node.get("_partial_"):
        raise UserError(f"{path}: {node['_target_']} also wants {', '.join(missing)}.")
    return checked


def check_value(name: str, value: Any, kinds: list[Kind]) -> Any:
    for kind in kinds:
        if kind.accepts(value):
            return kind.convert(value)
    choices = [str(item) for kind in kinds for item in kind.choices]
    allowed = [kind.description for kind in kinds if not kind.choices and kind is not OBJECT]
    if choices:
        allowed.insert(0, f"one of {listed(str(value), choices)}")
    is_missing = (
        any(kind.is_path for kind in kinds) and isinstance(value, str) and not Path(value).expanduser().exists()
    )
    wrong = "there is nothing at this path" if is_missing else "not allowed here"
    shown = "" if isinstance(value, Mapping) else f"={'null' if value is None else value}"
    raise Mismatch(name, f"{shown}: {wrong}; give {' or '.join(allowed or [OBJECT.description])}.")
