"""From the command line to a checked config, without importing torch; every mistake becomes one sentence."""

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from src.config.sweep import Sweep
from src.config.validation import Mismatch, check, listed
from src.core.errors import UserError
from src.core.ranks import agree, get_rank_info

CONF = Path(__file__).parents[2] / "conf"


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
        if sweep:
            sweep.attempt(lambda: job(**checked(config, target)))
            return
        try:
            job(**checked(config, target))
        except UserError as error:
            if wants_traceback:
                raise
            fail(str(error))

    sweep: Sweep | None = None
    try:
        overrides, flags = split_flags(sys.argv[1:])
        check_ahead(config_name, target, overrides, flags)
        if is_sweep(overrides, flags) and not own_launcher(overrides):
            sweep = Sweep()
        # Hydra itself reads no overrides on both sides of a flag.
        sys.argv[1:] = [*overrides, *folder_overrides(config_name, overrides, flags), *flags]
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        fail(explain(error, config_name, sys.argv[1:]))
    finally:
        if sweep:
            sweep.show()
    if sweep and sweep.failed:
        raise SystemExit(1)


def fail(sentence: str) -> NoReturn:
    # Of the processes on a machine all have made the same mistake.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def is_sweep(overrides: list[str], flags: list[str]) -> bool:
    return bool({"-m", "--multirun"} & set(flags)) or "hydra.mode=MULTIRUN" in overrides


def own_launcher(overrides: list[str]) -> bool:
    """Whether the user chose another way to run the jobs of a sweep than one after the other, here."""
    return any(override.startswith(("hydra/sweeper", "hydra/launcher")) for override in overrides)


def folder_overrides(config_name: str, overrides: list[str], flags: list[str]) -> list[str]:
    """What makes Hydra's folder the run folder, and one for all processes that torchrun or SLURM started."""
    here = get_rank_info()
    if here and is_sweep(overrides, flags):
        raise UserError(f"a sweep starts the processes of its jobs itself; don't start it by {here.launcher}")
    if config_name != "train" or flags or any(override.startswith("hydra.run.dir=") for override in overrides):
        return []
    given = [override.partition("=")[2] for override in overrides if override.startswith("run_dir=")]
    if given:
        folder = given[-1]
    elif here:
        folder = repr(HydraConfig.get().run.dir)
    else:
        return []
    if here:
        folder = agree(here, overrides, folder)
    return [f"hydra.run.dir={folder}", *(["hydra.output_subdir=null"] if here and here.rank else [])]


def split_flags(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The overrides and the flags of a command line, however they are mixed."""
    parser = get_args_parser()
    overrides = parser.parse_known_intermixed_args(arguments)[0].overrides
    flags = [argument for argument in arguments if argument not in overrides]
    known = parser._option_string_actions
    for flag in [flag.split("=")[0] for flag in flags]:
        if flag.startswith("-") and flag not in known:
            choices = listed(flag, [name for name in known if name.startswith("--")])
            raise UserError(f"{flag}: there is no such flag; there are {choices}; options have no dashes: seed=1.")
    return overrides, flags


def check_ahead(config_name: str, target: str, overrides: list[str], flags: list[str]) -> None:
    """Checks every job of the command line before a folder is made or the first job begins."""
    if set(flags) - {"-m", "--multirun"} or any(override.startswith("hydra/sweeper") for override in overrides):
        return
    jobs = [overrides]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        if is_sweep(overrides, flags):
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())
            jobs = BasicSweeper.split_arguments(parser.parse_overrides(overrides), None)[0]
        for job in jobs:
            checked(compose(config_name, job), target)
    if len(jobs) > 1 and len({folder for job in jobs for folder in job if folder.startswith("run_dir=")}) == 1:
        raise UserError("run_dir: the jobs of a sweep need a folder each; give hydra.sweep.dir=... for all of them.")


def compose(config_name: str, overrides: list[str]) -> DictConfig:
    """The config of one job; Hydra must be initialized."""
    runtime = ["hydra.runtime.output_dir=.", "hydra.job.num=0"]
    try:
        config = hydra.compose(config_name, [*overrides, *runtime], return_hydra_config=True)
    except ValueError as error:  # Hydra's word for data=null
        raise UserError(f"a group takes the name of one of its choices ({error}).") from error
    HydraConfig.instance().set_config(config)
    for group, choice in HydraConfig.get().runtime.choices.items():
        if choice == "base":
            raise UserError(f"{group}=base: base is what the choices of {group} share; take one of them.")
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def checked(config: DictConfig, target: str) -> dict[str, Any]:
    """The config in plain values that the target's signature accepts."""
    try:
        values: dict[str, Any] = check({"_target_": target, **resolved(config)})
    except Mismatch as misfit:
        if not misfit.complaint.startswith("="):
            raise
        unresolved = OmegaConf.to_container(config, resolve=False)
        raise Mismatch(written_at(misfit.key, unresolved), misfit.complaint) from misfit
    del values["_target_"]
    return values


def resolved(config: DictConfig) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given: add {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error


def written_at(key: str, unresolved: Any) -> str:
    """Where a value is written: model.encoder.image_size is ${data.image_size}, so data.image_size."""
    parts, node = key.split("."), unresolved
    for index, part in enumerate(parts):
        node = node.get(part) if isinstance(node, dict) else None
        reference = re.fullmatch(r"\$\{(\w[\w.]*)\}", node) if isinstance(node, str) else None
        if reference:
            return written_at(".".join([reference[1], *parts[index + 1 :]]), unresolved)
    return key


def explain(error: Exception, config_name: str, arguments: list[str]) -> str:
    """What is wrong with the command line and what it may say, the nearest first."""
    message = str(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        choices = [choice for choice in error.options if choice != "base"]  # what the others share
        return f"{group}={name}: there is no such choice; {group} is one of {listed(name, choices)}."
    unknown = re.search(r"Could not override '([^'@]+)", message)
    if unknown:
        return explain_key(unknown[1], config_name, arguments)
    if isinstance(error, OverrideParseException):
        return (
            f"can't read {error.override!r}: options look like model=gan or seed=1; "
            "quote a value of special characters twice: 'resume=\"a=1.safetensors\"'."
        )
    return " ".join(message.split("\nSee ")[0].split())


def explain_key(key: str, config_name: str, arguments: list[str]) -> str:
    """What there is in place of an unknown group (model/likelihod) or option (model.latnt_dim)."""
    kept = [item for item in arguments if re.match(r"[\w/.@]+=[^,]+$", item) and not item.startswith((key, "hydra"))]
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            config = compose(config_name, kept)
    except (HydraException, OmegaConfBaseException):
        return f"{key}: there is no such option."
    choices = {group: choice for group, choice in HydraConfig.get().runtime.choices.items() if "hydra" not in group}
    if "/" in key:
        parent = key.rpartition("/")[0]
        inside = [group for group in choices if group.startswith(f"{parent}/")]
        where = f"{parent}={choices[parent]} has" if inside else "there are"
        return f"{key}: there is no such group; {where} {listed(key, inside or list(choices))}."
    node, path = config, ""
    for part in key.split("."):
        unknown, parent, path = part, path, f"{path}.{part}".lstrip(".")
        if part not in node:
            break
        if not isinstance(node[part], DictConfig):
            return f"{key}: {path} is one value, without options of its own; give {path}=..."
        node = node[part]
    options = {str(name) for name in node if not str(name).startswith("_")}
    options |= {group for group in choices if "/" not in group} if not parent else set()
    where = f"{parent}={choices[parent]} has" if choices.get(parent) else f"{parent} has" if parent else "there are"
    return f"{path}: there is no such option; {where} {listed(unknown, sorted(options))}."
