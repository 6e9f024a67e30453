"""Processes that torchrun or SLURM started: which of them this one is, and what all of them agree on."""

import json
import os
from dataclasses import dataclass
from datetime import timedelta

from src.core.errors import UserError

# SLURM's numbers for the steps of a batch script and of an interactive shell, in which nobody started ranks.
SHELL_STEPS = range(0xFFFFFFF0, 0x100000000)
LONGEST_WAIT = timedelta(minutes=5)
# The first process's end of the store: the others may still be reading when it has all it wants.
kept_open: list[object] = []


@dataclass(frozen=True)
class RankInfo:
    """One process of a run of several, on perhaps several machines."""

    rank: int
    world_size: int
    launcher: str


def get_rank_info() -> RankInfo | None:
    """Where this process stands among those that torchrun or `srun` started; None if the user started it alone.

    In a batch script or a shell of SLURM's there are SLURM_PROCID and SLURM_NTASKS too, and still one process.
    """
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        return RankInfo(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), "torchrun")
    num_tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    is_shell = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if num_tasks > 1 and not is_shell and int(os.environ.get("SLURM_STEP_ID", 0)) not in SHELL_STEPS:
        return RankInfo(int(os.environ["SLURM_PROCID"]), num_tasks, "SLURM")
    return None


def hide_slurm() -> None:
    """Keeps Lightning from taking this process, and those it starts, for ranks that SLURM started."""
    if "SLURM_JOB_ID" in os.environ:
        os.environ["SLURM_JOB_NAME"] = "interactive"


def agree(here: RankInfo, overrides: list[str], folder: str) -> str:
    """The first process's folder, on every process; UserError if their command lines differ."""
    from torch import distributed

    address, port = main_address(here)
    # torchrun's agent keeps a store at the address; elsewhere the first process does, and training shares it later.
    keeps_it = here.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    key = f"cat_faces/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    try:
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            address, port, is_master=keeps_it, timeout=LONGEST_WAIT, multi_tenant=True
        )
        kept_open.append(store)
        if here.rank == 0:
            store.set(key, json.dumps([overrides, folder]))
        theirs, agreed = json.loads(store.get(key))
        # Whoever keeps the store waits for those who read it, should it end soon.
        if store.add(f"{key}/read", 1) == here.world_size:
            store.set(f"{key}/all", "")
        store.wait([f"{key}/all"], LONGEST_WAIT)
    except distributed.DistError as error:
        raise UserError(
            f"process {here.rank} of {here.world_size} did not find the others at {address}:{port} within "
            f"{LONGEST_WAIT.seconds} s ({str(error).splitlines()[0]}); check MASTER_ADDR, MASTER_PORT and the network"
        ) from error
    if theirs != overrides:
        raise UserError(
            f"process {here.rank} was given {' '.join(overrides) or 'nothing'}, the first one "
            f"{' '.join(theirs) or 'nothing'}; give all processes of a run the same options"
        )
    return agreed


def main_address(here: RankInfo) -> tuple[str, int]:
    """Where the first process can be reached."""
    if here.launcher == "SLURM":
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        environment = SLURMEnvironment()
        return environment.main_address, environment.main_port
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError):
        raise UserError("RANK and WORLD_SIZE are set, but not MASTER_ADDR and MASTER_PORT; use torchrun") from None
