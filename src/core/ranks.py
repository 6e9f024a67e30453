"""The ranks that torchrun or SLURM started: which one this process is, and the run folder they agree on."""

import json
import os
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from src.core.errors import UserError
from src.core.run_folder import owned

# SLURM's numbers for the steps of a batch script and of an interactive shell, in which nobody started ranks.
SHELL_STEPS = range(0xFFFFFFF0, 0x100000000)
TIMEOUT = timedelta(minutes=5)
# The first rank's end of the store: the others may still be reading when it has all it wants.
open_stores: list[object] = []
for_life = ExitStack()  # what is owned until the process ends


class RankInfo(NamedTuple):
    """One rank of a run of several, on one or more machines, and what started it: torchrun or SLURM."""

    rank: int
    world_size: int
    launcher: str


def get_rank_info() -> RankInfo | None:
    """Return which rank torchrun or `srun` started this process as; None if the user started it alone.

    In a batch script or a shell of SLURM's there are SLURM_PROCID and SLURM_NTASKS too, and still one process.
    """
    ranks = {name: number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in os.environ}
    if len(ranks) == 3:
        return RankInfo(ranks["RANK"], ranks["WORLD_SIZE"], "torchrun")
    if "LOCAL_RANK" in ranks:
        raise UserError("LOCAL_RANK is set, but not RANK and WORLD_SIZE too; unset it, or start the ranks by torchrun")
    num_tasks = number("SLURM_STEP_NUM_TASKS", "1")
    is_shell = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if num_tasks > 1 and not is_shell and number("SLURM_STEP_ID", "0") not in SHELL_STEPS:
        return RankInfo(number("SLURM_PROCID"), num_tasks, "SLURM")
    return None


def number(name: str, default: str = "") -> int:
    """Return the number in an environment variable. Raises UserError if it holds none."""
    text = os.environ.get(name, default)
    if not (text.isascii() and text.isdecimal()):
        raise UserError(f"the environment variable {name}={text} is no number; unset it, or use torchrun")
    return int(text)


def hide_slurm() -> None:
    """Keep Lightning from taking this process, and those it starts, for ranks that SLURM started."""
    if "SLURM_JOB_ID" in os.environ:
        os.environ["SLURM_JOB_NAME"] = "interactive"


def agree_on_run_dir(info: RankInfo, overrides: list[str], run_dir: str, resume: str | None) -> str:
    """Return the first rank's run folder, on every rank, which own it then until they end.

    Raises UserError if their command lines differ, or the folder can't be owned.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.utils.store import barrier
    from torch.distributed.rendezvous import rendezvous

    address, port = main_address(info)
    key = f"cat_faces/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    refusal = ""
    try:
        # torchrun's agent keeps a store at the address; elsewhere the first rank does, and training shares it later.
        store, _, _ = next(rendezvous(f"tcp://{address}:{port}", info.rank, info.world_size, timeout=TIMEOUT))
        open_stores.append(store)
        if info.rank == 0:
            try:
                for_life.enter_context(owned(Path(run_dir), resume, 0))
            except UserError as error:
                refusal = str(error)
            store.set(key, json.dumps([overrides, run_dir, refusal]))
        first_overrides, agreed, refusal = json.loads(store.get(key))
        # Whoever keeps the store waits for those who read it, should it end soon.
        barrier(store, info.world_size, f"{key}/read", TIMEOUT.seconds)
    except DistError as error:
        raise UserError(
            f"rank {info.rank} of {info.world_size} did not find the others at {address}:{port} within "
            f"{TIMEOUT.seconds} s ({str(error).splitlines()[0]}); check MASTER_ADDR, MASTER_PORT and the network"
        ) from error
    if refusal:
        raise UserError(refusal)
    if info.rank:
        for_life.enter_context(owned(Path(agreed), resume, info.rank))
    if first_overrides != overrides:
        given, first = (" ".join(options) or "nothing" for options in (overrides, first_overrides))
        raise UserError(f"rank {info.rank} was given {given}, rank 0 {first}; give all ranks of a run the same options")
    return agreed


def main_address(info: RankInfo) -> tuple[str, int]:
    """Return the address and port at which the first rank can be reached."""
    if info.launcher == "SLURM":
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        return SLURMEnvironment().main_address, SLURMEnvironment().main_port
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError):
        raise UserError("RANK and WORLD_SIZE are set, but not MASTER_ADDR and MASTER_PORT; use torchrun") from None
