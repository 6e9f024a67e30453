"""What is wrong with a command line, in one sentence, and what it may say: the nearest first."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from src.config.validation import listed
from src.core.errors import UserError


def explain(error: Exception, arguments: list[str], compose: Callable[[list[str]], DictConfig], conf: Path) -> str:
    """Return the sentence for an error of a command line. compose: makes the config of overrides; conf: its folder."""
    message = str(error)
    unknown = re.search(r"Could not override '([^'@]+)", message)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name}: there is no such choice; {group} is one of {listed(name, list(error.options))}."
    if isinstance(error, OverrideParseException):
        hint = corrected(error.override, arguments)
        return f"can't read {error.override!r}: options look like model=gan or seed=1; {hint}."
    if several := re.match("Ambiguous value for argument '([^']+)'", message):
        return f"{several[1]}: several values are a sweep, so add --multirun; one list is written in brackets, [a,b]."
    if unknown and not isinstance(error, UserError):
        return explain_key(unknown[1], arguments, compose, conf)
    return " ".join(message.split("\nSee ")[0].split())


def corrected(override: str, arguments: list[str]) -> str:
    """Return what to type for a value that Hydra reads as something else."""
    previous = arguments[max(arguments.index(override) - 1, 0)] if override in arguments else ""
    option, _, value = override.partition("=")
    if value and re.fullmatch(r"[\w./@+]+", option):
        return f"a value with special characters is quoted: {quoted(option, value)}"
    option, _, value = previous.partition("=")
    if value and previous != override:
        return f"if it belongs to the value before, quote it: {quoted(option, f'{value} {override}')}"
    return "every option is a name, = and a value"


def quoted(option: str, value: str) -> str:
    """Return an override as it is typed in a shell, so that Hydra reads the value as it stands."""
    inner = value.strip("'\"").replace("'", "\\'")
    typed = f"{option}='{inner}'"
    return shlex.quote(typed) if set(typed) & set('"$`\\!') else f'"{typed}"'


def explain_key(key: str, arguments: list[str], compose: Callable[[list[str]], DictConfig], conf: Path) -> str:
    """Return what there is in place of an unknown group (model/likelihod) or option (model.latnt_dim)."""
    kept = [item for item in arguments if re.match(r"[\w/.@]+=[^,]+$", item) and not item.startswith((key, "hydra"))]
    try:
        node = config = compose(kept)
    except (UserError, HydraException, OmegaConfBaseException):
        return f"{key}: there is no such option."
    choices = {group: choice for group, choice in HydraConfig.get().runtime.choices.items() if "hydra" not in group}
    if "/" in key:
        parent = key.rpartition("/")[0]
        inside = [group for group in choices if group.startswith(f"{parent}/")]
        where = f"{parent}={choices[parent]} has" if inside else "there are"
        return f"{key}: there is no such group; {where} {listed(key, inside or list(choices))}."
    path, parent, name = "", "", ""
    for name in key.split("."):
        if not isinstance(node, DictConfig):
            return f"{key}: {path} is one value, without options of its own; give {path}=..."
        parent, path = path, f"{path}.{name}".lstrip(".")
        if name not in node:
            break
        node = node[name]
    if hint := group_hint(key, conf):
        return f"{key}: there is no such option.{hint}"
    options = {str(option) for option in node if not str(option).startswith("_")}
    options |= {group for group in choices if not parent and "/" not in group}
    where = f"{parent}={choices[parent]} has" if choices.get(parent) else f"{parent} has" if parent else "there are"
    elsewhere = " or ".join(f"{found}=..." for found in keys_named(name, config))
    hint = f" Perhaps {elsewhere} is meant." if elsewhere else ""
    return f"{path}: there is no such option; {where} {listed(name, sorted(options))}.{hint}"


def group_hint(key: str, conf: Path) -> str:
    """Return a sentence on how a choice is typed for a key that is the name of a group (model.likelihood), else ''."""
    group = key.replace(".", "/")
    choices = sorted(file.stem for file in (conf / group).glob("*.yaml")) if "/" in group else []
    return f" To take a choice of this group, write {group}= and one of {', '.join(choices)}." if choices else ""


def keys_named(name: str, node: Any, path: str = "") -> list[str]:
    """Return the keys of a config, as they are typed, whose last part is this name."""
    if not isinstance(node, DictConfig):
        return []
    inside = [found for key in node for found in keys_named(name, node._get_node(key), f"{path}{key!s}.")]
    return [*([f"{path}{name}"] if path and name in node else []), *inside]


def written_at(key: str, unresolved: Any) -> str:
    """Return the key at which a value is written: model.encoder.image_size is ${data.image_size}: data.image_size."""
    parts, node = key.split("."), unresolved
    for index, part in enumerate(parts):
        node = node.get(part) if isinstance(node, dict) else None
        reference = re.fullmatch(r"\$\{(\w[\w.]*)\}", node) if isinstance(node, str) else None
        if reference:
            return written_at(".".join([reference[1], *parts[index + 1 :]]), unresolved)
    return key
