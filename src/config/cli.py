"""From the command line to a checked config, without importing torch; every mistake ends in one sentence."""

import hashlib
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from src.config.validation import Mismatch, check, listed
from src.core.errors import RunFailed, UserError, printable
from src.core.ranks import get_rank_info
from src.core.types import UNMEASURED

CONF = Path(__file__).parents[2] / "conf"
# Whether the user wants a traceback in place of a sentence: asked now, as Hydra is given the same variable later.
WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
PATHS = "runs"  # the parameter of a command that takes paths without an option's name
RUN_DIR_OPTIONS = ("run_dir=", "hydra.run.dir=", "hydra.sweep.dir=")


def run(job: Callable[..., None]) -> None:
    """Compose conf/<job>.yaml with the command line, check it against the job's signature, and call job(**config).

    A UserError, and whatever is wrong with the command line, ends in a sentence and exit status 2; HYDRA_FULL_ERROR=1
    shows the traceback.
    """
    name = job.__name__
    try:
        overrides, flags = split_flags(sys.argv[1:])
        overrides = stored_choices(overrides)
        if PATHS in inspect.signature(job).parameters:
            overrides = name_paths(overrides)
        config = composed(name, overrides, flags)
        if config and not is_sweep(overrides, flags):
            job(**config)
        else:
            run_by_hydra(job, overrides, flags)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if WANTS_TRACEBACK or isinstance(error, InstantiationException):
            raise
        fail(sentence_of(error, sys.argv[1:], name))


def run_by_hydra(job: Callable[..., None], overrides: list[str], flags: list[str]) -> None:
    """Let Hydra run the jobs of a sweep, or do what a flag such as --help asks for."""
    name, info, sweeps = job.__name__, get_rank_info(), is_sweep(overrides, flags)
    if info and sweeps:
        raise UserError(f"a sweep starts the ranks of its jobs itself; don't start it by {info.launcher}")

    def task(config: DictConfig) -> None:
        try:
            job(**checked(config, name))
        except RunFailed as failure:
            if failure.requested or not sweeps:
                raise
            # Hydra's launchers go on to the next job after an Exception, but not after a SystemExit.
            raise UserError(failure.reason) from failure
        except UserError as error:  # Hydra would print the overrides above it
            if sweeps or WANTS_TRACEBACK:
                raise
            fail(str(error))

    # Hydra then lets errors through to here instead of printing them its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Hydra itself reads no overrides on both sides of a flag.
    sys.argv[1:] = [*overrides, *flags]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
    except OSError as error:
        if not sweeps or not error.filename:
            raise
        reason = f"can't make the folder {error.filename}: {error.strerror}"
        raise UserError(f"{reason}; give another hydra.sweep.dir") from error


def sentence_of(error: Exception, overrides: list[str], name: str) -> str:
    """Return an error of a command line in one sentence, by a module that correct command lines need not import."""
    from src.config.explain import explain

    return explain(error, overrides, partial(compose, name), CONF)


def fail(sentence: str) -> NoReturn:
    """Print an error, once where all ranks on a machine have made it, and exit with status 2."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys() or os.environ.get("LOCAL_RANK", "0") in ("0", ""):
        print(f"error: {printable(sentence)}", file=sys.stderr)
    raise SystemExit(2)


def is_sweep(overrides: list[str], flags: Sequence[str]) -> bool:
    """Tell whether a command line asks for several jobs."""
    return bool({"-m", "--multirun"} & set(flags)) or "hydra.mode=MULTIRUN" in overrides


def split_flags(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the overrides and the flags of a command line, however they are mixed."""
    parser = get_args_parser()
    overrides = parser.parse_known_intermixed_args(arguments)[0].overrides
    flags = [argument for argument in arguments if argument not in overrides]
    known = parser._option_string_actions
    for flag in [flag.split("=")[0] for flag in flags]:
        if flag.startswith("-") and flag not in known:
            choices = listed(flag, [name for name in known if name.startswith("--")])
            raise UserError(f"{flag}: there is no such flag; there are {choices}; options have no dashes: seed=1.")
    return overrides, flags


def name_paths(overrides: list[str]) -> list[str]:
    """Return a command line with its paths, which are typed without a name and an =, as the option `runs`."""
    paths = [item for item in overrides if not re.match(r"[+~]*[\w./@]+=", item) or glob(item)]
    return [f"{PATHS}=[{','.join(map(as_text, paths))}]"] * bool(paths) + [
        item for item in overrides if item not in paths
    ]


def as_text(value: str) -> str:
    """Return a text as Hydra reads it in a command line, whatever characters are in it."""
    # A backslash means itself but before a quote, a reference or the end.
    value = re.sub(r"\\+(?='|\$\{|\Z)", r"\g<0>\g<0>", value)
    return "'" + value.replace("'", "\\'").replace("${", "\\${") + "'"


def composed(name: str, overrides: list[str], flags: Sequence[str] = ()) -> dict[str, Any]:
    """Check every job of a command line before a folder is made or the first job begins; return the last one's config.

    It is empty where the jobs are not known beforehand, or none is to run. Raises UserError for the user's mistakes.
    """
    overrides = stored_choices(overrides)
    if set(flags) - {"-m", "--multirun"} or any(override.startswith("hydra/sweeper") for override in overrides):
        return {}
    jobs, config = [overrides], {}
    GlobalHydra.instance().clear()  # a command that composes others' configs is itself a job of Hydra's
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            if is_sweep(overrides, flags):
                parser = OverridesParser.create(GlobalHydra.instance().config_loader())
                jobs = BasicSweeper.split_arguments(parser.parse_overrides(overrides), None)[0]
            for job in jobs:
                config = checked(compose(name, job), name)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(sentence_of(error, overrides, name)) from error
    if config.get("resume") == "last" and not any(item.startswith(RUN_DIR_OPTIONS) for item in overrides):
        raise UserError("resume=last goes on in the folder of a run; add run_dir=RUN")
    budget = next((option for option in ("budget_cpu_s", "budget_s") if config.get(option)), None)
    if budget and {item.partition("=")[0] for item in overrides} & {"max_images", budget} == {"max_images"}:
        raise UserError(f"max_images follows from {budget}={config[budget]:g}: leave it out, or add {budget}=null")
    if len(jobs) > 1 and len({folder for job in jobs for folder in job if folder.startswith("run_dir=")}) == 1:
        raise UserError("run_dir: the jobs of a sweep need a folder each; give hydra.sweep.dir=... for all of them.")
    return config


def stored_choices(overrides: list[str]) -> list[str]:
    """Return overrides in which files, experiment=PATH.yaml or search=PATH.yaml, have become choices of the group."""

    def store(match: re.Match[str]) -> str:
        path = Path(match[0].strip("'\"")).expanduser().absolute()
        try:
            node = OmegaConf.load(path)
        except (OSError, YAMLError) as error:
            raise UserError(f"can't read the file {path}: {' '.join(str(error).split())}; give another") from error
        name = f"{re.sub('[^A-Za-z0-9]', '_', path.stem)}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        package = "_global_" if group == "experiment" else group
        ConfigStore.instance().store(name, node, group=group, package=package)
        return name

    files, found = r"""(?<=[=,])('[^']+\.ya?ml'|"[^"]+\.ya?ml"|[^=,'"]+\.ya?ml)(?=,|$)""", []
    for override in overrides:
        group = override.split("=")[0]
        found.append(re.sub(files, store, override) if group in ("experiment", "search") else override)
    return found


def compose(name: str, overrides: list[str]) -> DictConfig:
    """Return the config of one job."""
    if not GlobalHydra.instance().is_initialized():
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return compose(name, overrides)
    runtime = ["hydra.runtime.output_dir=${hydra.run.dir}", "hydra.job.num=0"]
    try:
        config = hydra.compose(name, [*overrides, *runtime], return_hydra_config=True)
    except ValueError as error:  # Hydra's word for data=null
        raise UserError(f"a group takes the name of a choice, a value takes a dot: model.beta=4 ({error}).") from error
    HydraConfig.instance().set_config(config)
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def checked(config: DictConfig, name: str) -> dict[str, Any]:
    """Return a config in plain values that the command's signature accepts."""
    if config.get("budget_cpu_s") or config.get("budget_s"):
        config.max_images = UNMEASURED
    if str(config.get("run_dir")).startswith("~"):
        config.run_dir = os.path.expanduser(config.run_dir)  # before other options refer to it
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        accepted: dict[str, Any] = check({"_target_": f"src.{name}.{name}", **values})  # type: ignore[dict-item]
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given: add {error.full_key}=...") from error
    except Mismatch as mismatch:
        if not mismatch.complaint.startswith("="):
            raise
        from src.config.explain import group_hint, written_at

        key = written_at(mismatch.key, OmegaConf.to_container(config, resolve=False))
        raise Mismatch(key, mismatch.complaint + group_hint(key, CONF)) from mismatch
    del accepted["_target_"]
    return accepted
