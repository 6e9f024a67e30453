"""The signatures of constructors, read from the source by `ast`: nothing is imported, so torch need not be either."""

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union, get_origin

from pydantic import Field

from src.core import types

GENERIC: dict[str, Any] = {"list": list, "tuple": tuple, "dict": dict, "Sequence": Sequence, "Mapping": Mapping}
GENERIC |= {"Optional": Optional, "Union": Union}
# The names that annotations use; others are looked up in the source.
NAMES = {name: value for name, value in vars(types).items() if get_origin(value) in (Annotated, Literal)} | {
    "int": types.WholeNumber,
    "float": types.Number,
    "bool": Annotated[bool, Field(strict=True, description="true or false")],
    "str": Annotated[str, Field(description="text")],
    "Any": Any,
    "object": Any,
    "Tensor": types.Object,
    "Callable": types.Object,
    **GENERIC,
}


class Parameter(NamedTuple):
    """A parameter, with its annotation as it stands in a module."""

    annotation: ast.expr | None
    module: str
    required: bool

    @property
    def type(self) -> Any:
        """The type that pydantic validates with; anything where the annotation can't be understood."""
        try:
            return evaluate(self.annotation, self.module)
        except (ValueError, TypeError, SyntaxError, RecursionError):
            return Any


class Signature(NamedTuple):
    """The parameters of a constructor or function. takes_others: it has **options that nothing more is known of."""

    parameters: dict[str, Parameter]
    takes_others: bool = False


@cache
def parse(module: str) -> tuple[ast.Module, str] | None:
    """Return a module's syntax tree and the name of its package; None where there is no source."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top else None
    for folder in (spec.submodule_search_locations or [])[:1] if spec else []:
        path = Path(folder, *rest)
        for file, package in ((path / "__init__.py", module), (path.with_suffix(".py"), module.rpartition(".")[0])):
            if file.is_file():
                return ast.parse(file.read_text()), package
    return None


@cache
def find_definition(target: str) -> tuple[str, ast.stmt] | None:
    """Return the module and the definition of `package.module.Name` (class, function or alias), through imports."""
    module, _, name = target.rpartition(".")
    tree, package = parse(module) or (ast.Module([], []), "")
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=found) | ast.FunctionDef(name=found) if found == name:
                return module, node
            case ast.Assign(targets=[ast.Name(id=found)]) | ast.AnnAssign(target=ast.Name(id=found)) if found == name:
                return module, node
            case ast.ImportFrom(names=names, level=level):
                imported = next((item.name for item in names if name == (item.asname or item.name)), None)
                if imported:
                    parents = package.split(".")[: package.count(".") + 2 - level] if level else []
                    return find_definition(".".join([*parents, *filter(None, [node.module]), imported]))
    return None


@cache
def signature_of(target: str) -> Signature | None:
    """Return the parameters of a class or function; None where the source does not show them."""
    module, node = find_definition(target) or ("", None)
    if isinstance(node, ast.FunctionDef):
        return read_parameters(node, module)
    return class_signature(node, module) if isinstance(node, ast.ClassDef) else None


def class_signature(node: ast.ClassDef, module: str) -> Signature:
    """Return the signature of a class: of its __init__, of its fields as a dataclass, or the one that it inherits."""
    found = [signature_of(f"{module}.{base.id}") for base in node.bases if isinstance(base, ast.Name)]
    bases = [signature for signature in found if signature]
    merged: dict[str, Parameter] = {}  # in the order of the bases, as arguments without a name are
    for base in bases:
        merged |= {name: parameter for name, parameter in base.parameters.items() if name not in merged}
    inherited = Signature(merged, any(base.takes_others for base in bases))
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            own = read_parameters(item, module)
            if not own.takes_others:
                return own
            # A constructor that takes **options hands them to its base class, beside arguments that it gives itself.
            known = own.parameters.keys() | arguments_of_base(item, list(inherited.parameters))
            others = {name: parameter for name, parameter in inherited.parameters.items() if name not in known}
            return Signature(own.parameters | others, inherited.takes_others)
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return inherited
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    own_fields = {field.target.id: Parameter(field.annotation, module, field.value is None) for field in fields}  # type: ignore[union-attr]
    return Signature(inherited.parameters | own_fields)


def arguments_of_base(constructor: ast.FunctionDef, parameters: list[str]) -> set[str]:
    """Return which of the base class's parameters a constructor gives to `super().__init__` itself."""
    for node in ast.walk(constructor):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__":
            return {*parameters[: len(node.args)], *(keyword.arg for keyword in node.keywords if keyword.arg)}
    return set()


def read_parameters(function: ast.FunctionDef, module: str) -> Signature:
    """Return the parameters of a function, without `self`."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults, *arguments.kw_defaults]
    parameters = {
        argument.arg: Parameter(argument.annotation, module, default is None)
        for argument, default in zip([*positional, *arguments.kwonlyargs], defaults, strict=True)
    }
    parameters.pop("self", None)
    return Signature(parameters, arguments.kwarg is not None)


def evaluate(annotation: ast.expr | None, module: str) -> Any:
    """Return the type that an annotation means: an object (of other people's: anything) where only an import tells."""
    match annotation:
        case None:
            return Any
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str() as text):
            return evaluate(ast.parse(text, mode="eval").body, module)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[evaluate(left, module), evaluate(right, module)]  # noqa: UP007
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return Literal[tuple(ast.literal_eval(item) for item in getattr(choices, "elts", [choices]))]
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in GENERIC:
            elements = getattr(inner, "elts", [inner])
            items = [... if ast.unparse(item) == "..." else evaluate(item, module) for item in elements]
            return GENERIC[name][tuple(items) if len(items) > 1 else items[0]]
        case ast.Subscript(value=value):
            return evaluate(value, module)
        case ast.Name(id=name) if name in NAMES:
            return NAMES[name]
        case ast.Name(id=name):
            found, definition = find_definition(f"{module}.{name}") or ("", None)
            if isinstance(definition, ast.Assign | ast.AnnAssign):
                return evaluate(definition.value, found)
    return types.Object if module.startswith("src.") else Any
