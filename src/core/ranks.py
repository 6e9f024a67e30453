"""The ranks that torchrun or SLURM started: which one this process is."""

import os
from typing import NamedTuple

from src.core.errors import UserError

# SLURM's numbers for the steps of a batch script and of an interactive shell, in which nobody started ranks.
SHELL_STEPS = range(0xFFFFFFF0, 0x100000000)


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
