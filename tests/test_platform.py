"""Nothing depends on what only POSIX has: with those names hidden, all is imported, and a run ends and goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import REPOSITORY, tiny

# Other packages keep what they have found.
HIDDEN = """
import importlib, os, pkgutil, signal, sys
import hydra, lightning, PIL.Image, sklearn.mixture, tensorboard, threadpoolctl, torch, torchmetrics, wandb
import gradio, huggingface_hub, onnx, onnxruntime, onnxscript, optuna, plotly, psutil
import rich.console, rich.progress, rich.table, torch_fidelity, efficientnet_lite_pytorch, filelock
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)
for name in ("fork", "geteuid", "getuid", "killpg", "pread", "pwrite", "register_at_fork", "sched_getaffinity"):
    delattr(os, name)
import src
for module in pkgutil.walk_packages(src.__path__, "src."):
    if not module.name.endswith(("__main__", "export.app")):  # the app runs in an exported folder
        importlib.import_module(module.name)
from src.config.cli import run
from src.train import train
for options in ([], ["resume=last", "max_images=64"]):
    sys.argv = ["train", *OPTIONS, *options]
    run(train)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quickstart_runs_without_what_only_posix_has(tmp_path: Path) -> None:
    options = tiny("vae", "metrics=none", "max_images=32", f"run_dir={tmp_path}/run")
    code = HIDDEN.replace("OPTIONS", repr(options))
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path}/run can't be locked here: take care that no other run uses it" in result.stdout
    assert (tmp_path / "run" / "checkpoints" / "images_000000064.safetensors").exists()
