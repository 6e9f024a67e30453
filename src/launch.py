"""One process, or a process for each device: started here, or by torchrun or SLURM.

Every process gets the one resolved config of the run folder, so nothing is composed twice and every job of a sweep
has a process tree of its own.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from src.errors import UserError

PATIENCE_S = 20.0  # for a process that was asked to end


def launch(config: dict[str, Any]) -> None:
    """Runs src.fit.fit(config) in as many processes as config["trainer"] asks for; SystemExit if one of them fails."""
    run_dir = Path(config["run_dir"])
    run_dir.mkdir(parents=True, exist_ok=True)
    num_processes = count_processes(config["trainer"])
    started_elsewhere = "LOCAL_RANK" in os.environ or "SLURM_PROCID" in os.environ
    if config["trainer"]["num_nodes"] > 1 and not started_elsewhere:
        raise UserError("trainer.num_nodes: several machines want torchrun or SLURM to start a process on each device")
    if num_processes == 1 or started_elsewhere:
        from src.fit import fit

        fit(config)
        return
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "src.launch", str(run_dir / "config.yaml")]
    environments = [process_environment(rank, num_processes) for rank in range(num_processes)]
    port = str(free_port())
    processes = [subprocess.Popen(command, env=environment | {"MASTER_PORT": port}) for environment in environments]
    exit_code = wait_for(processes)
    if exit_code:
        raise SystemExit(exit_code)


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


def process_environment(rank: int, num_processes: int) -> dict[str, str]:
    # Without a share of the cores each, processes on one CPU fight for all of them.
    threads = str(max((os.cpu_count() or 1) // num_processes, 1))
    return {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
        "RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(processes: list[subprocess.Popen]) -> int:
    """The first failure's exit status, or 0; a process that fails ends the others instead of leaving them to wait."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while True:
            statuses = [process.poll() for process in processes]
            failed = [status for status in statuses if status]
            if failed:
                return failed[0] if failed[0] > 0 else 128 - failed[0]
            if None not in statuses:
                return 0
            time.sleep(0.2)
    except KeyboardInterrupt:
        # The processes have it from the terminal too, and end by themselves.
        wait_patiently(processes)
        raise
    finally:
        end(processes)


def end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    wait_patiently(processes)
    for process in processes:
        process.kill()
        process.wait()


def wait_patiently(processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0))


def main() -> None:
    """One process of several: `python -m src.launch RUN_DIR/config.yaml`, its rank in the environment."""
    from src.fit import fit

    config = yaml.safe_load(Path(sys.argv[1]).read_text())
    try:
        fit(config)
    except UserError as error:
        if os.environ["LOCAL_RANK"] == "0":
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
