"""One process, or a process for each device, started here and watched: where one dies, the others end too.

Every process gets the one resolved config of the run folder, so nothing is composed twice and every job of a sweep
has a process tree of its own. Processes that torchrun or SLURM started are in src/core/ranks.py.
"""

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from src.core.errors import RunFailed, UserError
from src.core.ranks import get_rank_info, hide_slurm

PATIENCE_S = 20.0  # for processes that are to end because another one failed
PATIENCE_ON_REQUEST_S = 120.0  # for processes that the user asked to end, which first write a checkpoint
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Ending(NamedTuple):
    """Exit status of a run's processes, as a shell counts, and the signal that asked them to end, if one did."""

    status: int
    request: int | None = None


def launch(config: dict[str, Any], always_apart: bool = False) -> None:
    """Runs fit(config) in as many processes as config["trainer"] asks for; RunFailed if one of them fails.

    always_apart: even a single one gets a process of its own, as the jobs of a sweep do.
    """
    run_dir = Path(config["run_dir"])
    run_dir.mkdir(parents=True, exist_ok=True)
    num_processes, num_nodes = count_processes(config["trainer"]), config["trainer"]["num_nodes"]
    here = get_rank_info()
    if not here or here.rank == 0:
        # Of an earlier attempt in this folder.
        (run_dir / "error.txt").unlink(missing_ok=True)
    if here:
        if here.world_size != num_processes * num_nodes:
            raise UserError(
                f"trainer.devices={num_processes} on each of trainer.num_nodes={num_nodes} machines are "
                f"{num_processes * num_nodes} processes, but {here.launcher} started {here.world_size}; "
                "give the numbers of each machine's processes and of machines"
            )
        run_rank(config, here.rank, here.world_size)
        return
    hide_slurm()
    if num_nodes > 1:
        raise UserError("trainer.num_nodes: several machines want torchrun or SLURM to start a process on each device")
    if num_processes == 1 and not always_apart:
        from src.training.fit import fit

        fit(config)
        return
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "src.training.launcher", str(run_dir / "config.yaml")]
    port = str(free_port())
    # In a process group of their own they get a signal from here, once, and not from the terminal too.
    processes = [
        subprocess.Popen(command, env=process_environment(rank, num_processes, port), process_group=0)
        for rank in range(num_processes)
    ]
    ending = wait_for(processes)
    if ending.status:
        raise RunFailed(
            ending.status,
            explain(ending, [process.returncode for process in processes], run_dir),
            ending.request is not None,
        )


def explain(ending: Ending, statuses: list[int], run_dir: Path) -> str:
    """Why a run ended so. A process that was killed could not say it: that is said here."""
    if ending.request:
        return f"ended by {signal.Signals(ending.request).name}"
    killed = [rank for rank, status in enumerate(statuses) if status < 0 and 128 - status == ending.status]
    error = run_dir / "error.txt"
    if killed:
        which = f"process {killed[0]} of {len(statuses)}" if len(statuses) > 1 else "the process"
        reason = f"{which} was killed by {signal.Signals(ending.status - 128).name}"
        print(f"error: {reason}", file=sys.stderr, flush=True)
        error.write_text(reason + "\n")
        return reason
    return error.read_text().strip() if error.exists() else f"exit status {ending.status}"


def count_processes(trainer: dict[str, Any]) -> int:
    """Processes on this machine: one for each of trainer.devices."""
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        import torch

        return max(torch.cuda.device_count(), 1) if trainer["accelerator"] != "cpu" else 1
    try:
        return int(devices)
    except ValueError as error:
        raise UserError(f"trainer.devices={devices}: give a number of devices, a list of them or auto") from error


def process_environment(rank: int, num_processes: int, port: str) -> dict[str, str]:
    # Without a share of the cores each, processes on one CPU fight for all of them.
    threads = str(max((os.cpu_count() or 1) // num_processes, 1))
    return {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
        "RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(processes: list[subprocess.Popen]) -> Ending:
    """Waits for all of them; one that fails ends the others instead of leaving them to wait for it.

    A signal that asks this process to end is passed on, and they have time to save what they have.
    """
    received: list[int] = []
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in FORWARDED}
    passed_on, deadline = 0, math.inf
    try:
        while None in statuses(processes) and time.monotonic() < deadline:
            if first_failure(processes) and not received:
                # Where one was killed others lose their connection to it: a moment later it is clear which.
                time.sleep(0.5)
                break
            for number in received[passed_on:]:
                send(processes, number)
                deadline = time.monotonic() + PATIENCE_ON_REQUEST_S
            passed_on = len(received)
            time.sleep(0.1)
        request = received[0] if received else None
        status = first_failure(processes)
        if request and None in statuses(processes):  # too late
            status = status or 128 + request
        return Ending(status, request)
    finally:
        end(processes)
        for number, handler in before.items():
            signal.signal(number, handler)


def statuses(processes: list[subprocess.Popen]) -> list[int | None]:
    return [process.poll() for process in processes]


def first_failure(processes: list[subprocess.Popen]) -> int:
    """As a shell counts: 128 + the signal of a killed process, else the first status that is not 0, else 0."""
    known = [status for status in statuses(processes) if status]
    return next((128 - status for status in known if status < 0), known[0] if known else 0)


def send(processes: list[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def end(processes: list[subprocess.Popen]) -> None:
    send(processes, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0))
        process.kill()
        process.wait()


def run_rank(config: dict[str, Any], rank: int, world_size: int) -> None:
    """Runs fit(config) as one rank of several: the first to fail says why, on the screen and in error.txt."""
    try:
        from src.training.fit import fit

        fit(config)
        return
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except UserError as error:
        code, reason, shown = 2, str(error), f"error: {error}"
    except Exception as error:
        code, reason = 1, " ".join(f"{type(error).__name__}: {error}".split())[:300]
        where = f"process {rank} of {world_size}: " if world_size > 1 else ""
        shown = f"{where}{traceback.format_exc()}"
        if world_size > 1 and lost_the_others(error):
            # Whoever broke off knows more, and is heard first.
            time.sleep(2)
    if is_first_word(Path(config["run_dir"]) / "error.txt", reason):
        print(shown, file=sys.stderr, flush=True)
    raise SystemExit(code)


def lost_the_others(error: Exception) -> bool:
    """Whether the error only tells that another process is gone."""
    return any(word in str(error).lower() for word in ("connection", "gloo", "nccl", "timed out"))


def is_first_word(path: Path, reason: str) -> bool:
    """Writes the reason where no process has written one before."""
    try:
        with path.open("x") as file:
            file.write(reason + "\n")
    except FileExistsError:
        return False
    except OSError:
        pass  # a full disk, perhaps: then it is shown only
    return True


def end_with(launcher: int) -> None:
    """Ends this process once the one that started it is gone: nobody would watch over it."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """One process of a run: `python -m src.training.launcher RUN_DIR/config.yaml`, its rank in the environment."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    config = yaml.safe_load(Path(sys.argv[1]).read_text())
    run_rank(config, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


if __name__ == "__main__":
    main()
