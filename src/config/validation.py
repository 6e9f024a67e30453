"""Validates a composed config against the constructors it names, before torch is imported.

A constructor's signature is the schema; pydantic validates the values. What does not fit ends in a sentence at once.
"""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import hydra.utils
from hydra.errors import InstantiationException
from pydantic import TypeAdapter, ValidationError

from src.config.signatures import signature_of
from src.core.errors import UserError
from src.core.types import Devices, Object

# What the annotations of other people's constructors leave open.
FOREIGN = {
    "lightning.Trainer.precision": Literal["32-true", "bf16-mixed", "16-mixed", "64-true"],
    "lightning.Trainer.accelerator": Literal["auto", "cpu", "gpu", "mps"],
    "lightning.Trainer.devices": Devices,
}
# The optimizers that train here, and that a checkpoint may name.
OPTIMIZERS = tuple(f"torch.optim.{name}" for name in ("Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD"))
MAX_LISTED = 16  # names in a sentence
HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
PLAIN_TYPES: dict[Any, str] = {Any: "anything", type(None): "null", dict: "a mapping", Mapping: "a mapping"}
PLAIN_TYPES |= dict.fromkeys((list, tuple, Sequence), "a list")


adapter = cache(TypeAdapter)


class Mismatch(UserError):
    """A key whose value does not fit, and why."""

    def __init__(self, key: str, complaint: str) -> None:
        super().__init__(key + complaint)
        self.key, self.complaint = key, complaint


def check(node: Any, path: str = "") -> Any:
    """Return a config (plain dicts and lists) with its values in the types of the signatures that it names.

    Raises UserError for the first key or value that does not fit, with what would.
    """
    if isinstance(node, list | tuple):
        return [check(item, f"{path}[{index}]") for index, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    target = str(node.get("_target_", ""))
    signature = signature_of(target) if target else None
    complaint = ""
    if signature is None and target and (target.startswith("src.") or "." not in target):
        complaint = "there is no such class; give one as src.models.vae.VAE."
    elif target.startswith("torch.optim.") and target not in OPTIMIZERS:
        complaint = f"not allowed here; give one of {listed(target, list(OPTIMIZERS))}."
    if complaint:
        raise Mismatch(f"{path}._target_".lstrip("."), f"={target}: {complaint}")
    parameters = signature.parameters if signature else {}
    checked = {}
    for key, value in node.items():
        name = f"{path}.{key}".lstrip(".")
        if key in HYDRA_KEYS:
            checked[key] = value
        elif key in parameters:
            annotation = FOREIGN.get(f"{target}.{key}") or parameters[key].type
            checked[key] = check(check_value(name, value, annotation), name)
        elif signature is None or signature.takes_others:
            checked[key] = check(value, name)
        elif value is not None:  # null is what a command leaves open for choices that have the option
            raise Mismatch(name, f": {target} has no such option; it has {listed(key, list(parameters))}.")
    missing = [key for key, parameter in parameters.items() if parameter.required and key not in checked]
    if missing and not node.get("_partial_"):
        raise UserError(f"{path}: {target} also wants {', '.join(missing)}.")
    return checked


def check_value(name: str, value: Any, annotation: Any) -> Any:
    """Return a value in the type of an annotation; raise Mismatch if it does not fit, with what is allowed."""
    try:
        return adapter(annotation).validate_python(value)
    except ValidationError as error:
        reasons = [str(item["ctx"]["error"]) for item in error.errors() if item["type"] == "value_error"]
    except (OSError, RuntimeError) as error:  # a path that can't be looked at, a user (~name) who does not exist
        reasons = [getattr(error, "strerror", None) or str(error)]
    choices, others = alternatives(annotation)
    allowed = [f"one of {listed(str(value), choices)}"] if choices else []
    shown = "" if isinstance(value, Mapping) else f"={'null' if value is None else value}"
    reason = next(filter(None, reasons), "not allowed here")
    raise Mismatch(name, f"{shown}: {reason}; give {' or '.join([*allowed, *others]) or 'an object (_target_)'}.")


def alternatives(annotation: Any) -> tuple[list[str], list[str]]:
    """Return the choices of an annotation and what else it allows, in words; objects go without saying."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation == Object:
        return [], []
    if origin is Literal:
        return [str(choice) for choice in inner], []
    if origin in (Union, UnionType):
        parts = [alternatives(part) for part in inner]
        return [choice for choices, _ in parts for choice in choices], [text for _, texts in parts for text in texts]
    if origin is tuple:
        return [], [f"a list of {len(inner)} values"]
    texts = [item.description for item in getattr(annotation, "__metadata__", ()) if getattr(item, "description", None)]
    return [], texts[-1:] or [PLAIN_TYPES.get(origin or annotation, "an object (_target_)")]


def listed(word: str, choices: list[str]) -> str:
    """Return the choices for a sentence: numbers by their size, else the nearest to a mistyped word first."""
    if all(choice.isdecimal() for choice in choices):
        names = sorted(choices, key=int)
    else:
        names = sorted(choices, key=lambda name: (-SequenceMatcher(None, word.lower(), name.lower()).ratio(), name))
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def instantiate(config: Any, _convert_: str = "all", **options: Any) -> Any:
    """Make the object that a config names. A UserError of its constructor passes as it is, not in Hydra's words."""
    try:
        return hydra.utils.instantiate(config, _convert_=_convert_, **options)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise
