"""From the command line to a checked config, without importing torch; every mistake becomes one sentence."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from src.check import check, listed
from src.errors import UserError

CONF = Path(__file__).parent.parent / "conf"


def run(config_name: str, job: Callable[..., None]) -> None:
    """Composes conf/<config_name>.yaml with the command line, checks it against job's signature, calls job(**config).

    A UserError, and whatever is wrong with the command line, ends in a sentence and exit code 2; HYDRA_FULL_ERROR=1
    shows the traceback.
    """
    wants_traceback = "HYDRA_FULL_ERROR" in os.environ
    # Hydra then lets errors through to here instead of printing them its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    target = f"src.{config_name}.{job.__name__}"

    def task(config: DictConfig) -> None:
        try:
            checked = check({"_target_": target, **resolved(config)})
            del checked["_target_"]
            job(**checked)
        except UserError as error:
            if wants_traceback:
                raise
            fail(str(error))

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        fail(explain(error, config_name))


def fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def resolved(config: DictConfig) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given: add {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error


def explain(error: Exception, config_name: str) -> str:
    """What is wrong with the command line and what it may say, the nearest first."""
    message = str(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name}: there is no such choice; {group} is one of {listed(name, list(error.options))}."
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown:
        key = unknown[1].split("@")[0]
        if "/" in key:
            return f"{key}: there is no such group; the groups are {listed(key, groups())}."
        parent, _, name = key.rpartition(".")
        known = options_of(parent, key, config_name)
        inside = f"{parent} has" if parent else "there are"
        return f"{key}: there is no such option; {inside} {listed(name, known)}." if known else f"{key}: no such option."
    if "mismatched input" in message or "missing EQUAL" in message or "token recognition" in message:
        return f"can't read the command line ({message.splitlines()[0]}); options look like model=gan or seed=1."
    return " ".join(message.split("\nSee ")[0].split())


def groups() -> list[str]:
    return sorted(str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir())


def options_of(parent: str, unknown_key: str, config_name: str) -> list[str]:
    """The keys that the config has where the unknown one was looked for."""
    overrides = [item for item in sys.argv[1:] if "=" in item and not item.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    kept = [item.input_line or "" for item in parsed if item.key_or_group != unknown_key and "hydra" not in item.key_or_group]
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            config = hydra.compose(config_name, [item for item in kept if "," not in item])
    except (HydraException, OmegaConfBaseException):
        return []
    node = OmegaConf.select(config, parent) if parent else config
    keys = [str(key) for key in node if not str(key).startswith("_")] if isinstance(node, DictConfig) else []
    return keys + ([group for group in groups() if group not in keys] if not parent else [])
