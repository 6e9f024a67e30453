"""Starts a run in this process, or in one process for each device, which are watched: if one dies, the others end.

Every rank gets the resolved config. Ranks that torchrun or SLURM started are recognized by src/core/ranks.py.
"""

import math
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from src.callbacks.stop_signals import stop_signals
from src.core.errors import RunFailed, UserError, printable
from src.core.files import write_atomic
from src.core.ranks import get_rank_info, hide_slurm
from src.core.run_folder import CONFIG, ERROR, full_disk_explained, held, owned

END_WITHIN_S = 20.0  # after another rank failed
SAVE_WITHIN_S = 120.0  # after the user asked the run to stop: it first writes a checkpoint


def start(config: dict[str, Any], typed: list[str], always_apart: bool = False) -> None:
    """Train as a checked config says, or resume. typed: the overrides of the command line; always_apart: see launch.

    Raises UserError where the run folder or the checkpoint can't be used.
    """
    run_dir, here = Path(config["run_dir"]), get_rank_info()
    if here and not any(item.startswith(("run_dir=", "hydra.run.dir=")) and "${now" not in item for item in typed):
        raise UserError(f"the ranks that {here.launcher} started need one folder; add run_dir=..., the same for all")
    if config["init_from"] and "ema_rampup" in config["model"] and not any("ema_rampup=" in item for item in typed):
        # The average of weights that are good already needs no short memory (as in StyleGAN2-ADA's transfer).
        config = config | {"model": config["model"] | {"ema_rampup": None}}
    with full_disk_explained(run_dir), owned(run_dir, config["resume"]):
        if config["resume"]:
            # Reading a checkpoint needs torch, and a mistake in the run folder should not wait for it.
            from src.training.resume import resumed_config

            if config["init_from"] and config["resume"] != "last":
                raise UserError("init_from starts a new run, resume continues one; give one of them, or resume=last")
            config = resumed_config(config, typed)
        if not here or here.rank == 0:
            print(f"run folder: {run_dir}", flush=True)
        launch("src.training.fit.fit", config, always_apart)


def launch(fit: str, config: dict[str, Any], always_apart: bool = False) -> None:
    """Run a function, given by its dotted name, with the config, in as many processes as config["trainer"] asks for.

    With always_apart even a single rank gets a process of its own, as the jobs of a sweep do. RunFailed if a process
    started here fails or was asked to stop.
    """
    run_dir, here = Path(config["run_dir"]), get_rank_info()
    run_dir.mkdir(parents=True, exist_ok=True)
    num_ranks, num_nodes = count_ranks(config["trainer"]), config["trainer"]["num_nodes"]
    if not here or here.rank == 0:
        (run_dir / ERROR).unlink(missing_ok=True)
    batch_size, world_size = config["data"].get("batch_size", 0), num_ranks * num_nodes
    if batch_size % world_size:
        raise UserError(
            f"data.batch_size={batch_size} can't be shared by {world_size} ranks; give a multiple of {world_size}"
        )
    if here:
        if here.world_size != world_size:
            raise UserError(
                f"trainer.devices={num_ranks} on each of trainer.num_nodes={num_nodes} machines are {world_size} "
                f"processes, but {here.launcher} started {here.world_size}; give both as they are"
            )
        run_rank(fit, config, here.rank, here.world_size)
        return
    hide_slurm()
    if num_nodes > 1:
        raise UserError("trainer.num_nodes: several machines want torchrun or SLURM to start a process on each device")
    if num_ranks == 1 and not always_apart:
        try:
            pkgutil.resolve_name(fit)(config)
        except UserError as error:
            with suppress(OSError):
                (run_dir / ERROR).write_text(f"{error}\n")
            raise
        return
    write_atomic(run_dir / CONFIG, yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "src.training.launcher", fit, str(run_dir / CONFIG), str(os.getpid())]
    # In process groups of their own they get a terminal's signal once, from here. They own the run folder too.
    start_rank = partial(subprocess.Popen, command, process_group=0, pass_fds=list(held))
    wait_for([start_rank(env=environment) for environment in rank_environments(num_ranks)], run_dir / ERROR)


def count_ranks(trainer: dict[str, Any]) -> int:
    """Return the number of ranks on this machine: one for each of trainer.devices."""
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        import torch

        return max(torch.cuda.device_count(), 1) if trainer["accelerator"] != "cpu" else 1
    return int(devices)


def rank_environments(num_ranks: int) -> list[dict[str, str]]:
    """Return the environment variables of each rank, those of this process among them, and a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, port = server.getsockname()
    # Without a share of the cores each, ranks on one CPU fight for all of them.
    threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // num_ranks, 1))}
    shared = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(num_ranks)}
    common = {**threads, **os.environ, **shared}
    return [common | {"LOCAL_RANK": str(rank), "RANK": str(rank)} for rank in range(num_ranks)]


def wait_for(ranks: list[subprocess.Popen], error_file: Path) -> None:
    """Wait until all ranks have ended; if one fails, end the others instead of leaving them to wait for it.

    A signal that asks this process to end is passed on once, and the ranks have time to save a checkpoint. Raises
    RunFailed with the reason, which is printed where a killed rank could not.
    """
    signal_number, deadline = 0, math.inf

    def forward(number: int, frame: Any) -> None:
        nonlocal signal_number, deadline
        signal_number, deadline = signal_number or number, time.monotonic() + SAVE_WITHIN_S
        for rank in ranks:
            rank.send_signal(number)

    with ExitStack() as stack:
        for number in stop_signals():
            stack.callback(signal.signal, number, signal.signal(number, forward))
        stack.callback(terminate, ranks)
        while None in [rank.poll() for rank in ranks] and time.monotonic() < deadline:
            if any(rank.returncode for rank in ranks) and not signal_number:
                # If one was killed, others lose their connection to it: a moment later it is clear which.
                time.sleep(0.5)
                break
            time.sleep(0.1)
        statuses = [rank.poll() for rank in ranks]

    killed = {rank: -status for rank, status in enumerate(statuses) if status and status < 0}
    status = next((128 + number for number in killed.values()), next(filter(None, statuses), 0))
    if signal_number:
        reason = f"ended by {signal.Signals(signal_number).name}"
        status = status or (128 + signal_number if None in statuses else 0)
    elif killed:
        which = f"rank {next(iter(killed))} of {len(ranks)}" if len(ranks) > 1 else "the process"
        reason = f"{which} was killed by {signal.Signals(status - 128).name}"
        print(f"error: {reason}", file=sys.stderr, flush=True)
        error_file.write_text(reason + "\n")
    else:
        reason = printable(error_file.read_text().strip()) if error_file.exists() else f"exit status {status}"
    if status:
        raise RunFailed(status, reason, requested=signal_number > 0)


def terminate(ranks: list[subprocess.Popen]) -> None:
    """End the ranks that still run: by SIGTERM, and those that don't obey within END_WITHIN_S by SIGKILL."""
    for rank in ranks:
        rank.terminate()
    deadline = time.monotonic() + END_WITHIN_S
    for rank in ranks:
        with suppress(subprocess.TimeoutExpired):
            rank.wait(max(deadline - time.monotonic(), 0))
        rank.kill()
        rank.wait()


def run_rank(fit: str, config: dict[str, Any], rank: int, world_size: int) -> None:
    """Run one rank of several; the first to fail says why, on the screen and in error.txt, and all exit."""
    try:
        pkgutil.resolve_name(fit)(config)
        return
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except UserError as error:
        status, reason, shown = 2, str(error), f"error: {error}"
    except Exception as error:
        status, reason = 1, printable(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
        shown = "\n".join(map(printable, traceback.format_exc().splitlines()))
        shown = f"rank {rank} of {world_size}: {shown}" if world_size > 1 else shown
        if world_size > 1 and any(word in str(error).lower() for word in ("connection", "gloo", "nccl", "timed out")):
            time.sleep(2)  # the rank that broke the connection knows more and is heard first
    try:
        with Path(config["run_dir"], ERROR).open("x") as file:
            file.write(reason + "\n")
    except FileExistsError:
        raise SystemExit(status) from None
    except OSError:
        pass  # a full disk, perhaps: the error is shown only
    print(shown, file=sys.stderr, flush=True)
    raise SystemExit(status)


def end_with(launcher: int) -> None:
    """End this process once the one that started it is gone, as nobody would watch over it."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_WITHIN_S)
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    # One rank, which the environment names: `python -m src.training.launcher FUNCTION CONFIG.yaml LAUNCHER`.
    threading.Thread(target=end_with, args=(int(sys.argv[3]),), daemon=True).start()
    rank_config = yaml.safe_load(Path(sys.argv[2]).read_text())
    run_rank(sys.argv[1], rank_config, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
