"""One run in one process (of perhaps several): builds what the config names, fits, sums up."""

import errno
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException

from src.callbacks.checkpoints import Checkpoints, SafetensorsIO, describe_last_checkpoint
from src.callbacks.stop_signals import StopSignals
from src.core.errors import STOPPED, RunStopped, UserError
from src.core.run_folder import CONFIG, run_dir_of
from src.data.datamodule import ImageDataModule
from src.models.base import GenerativeModel
from src.models.checkpoint.loading import load_weights, portable_config, read_checkpoint
from src.training.launcher import count_processes
from src.training.resume import nested_value, restore_run_dir
from src.training.summary import find, print_summary, write_summary

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fit(config: dict[str, Any]) -> None:
    """Trains as the resolved config says; what comes of it lies in config["run_dir"]."""
    started_at = time.time()
    quieten_lightning()
    run_dir = Path(config["run_dir"])
    # The same initial weights in every process; the noise of the steps is seeded by StepSeeds.
    torch.manual_seed(config["seed"])
    model: GenerativeModel = instantiate(config["model"], _convert_="all")
    model.config = portable_config(config)
    checkpoint: dict[str, Any] = {"images_seen": 0}
    if config["resume"]:
        # A file that does not fit is refused before anything is made; Lightning restores the rest.
        checkpoint = read_checkpoint(config["resume"])
        load_weights(model, checkpoint)
    data: ImageDataModule = instantiate(config["data"], _convert_="all")
    callbacks = [instantiate(callback, _convert_="all") for callback in config["callbacks"].values() if callback]
    loggers = build_loggers(config, checkpoint)
    trainer = build_trainer(config["trainer"], model, callbacks=callbacks, logger=loggers, default_root_dir=run_dir)
    trainer.strategy.checkpoint_io = SafetensorsIO()
    checkpoints = find(trainer, Checkpoints)
    signals = checkpoints.signals if checkpoints else StopSignals()
    # Lightning's own handlers would leave without a checkpoint, or talk to the other processes out of turn.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    exit_code = 1
    signals.install()
    try:
        if trainer.is_global_zero:
            print(f"data: {data.source.description}", flush=True)
            restore_run_dir(config["resume"], run_dir, checkpoint)
            (run_dir / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
        for run_logger in loggers:
            run_logger.log_hyperparams(config)
        trainer.fit(model, data, ckpt_path=config["resume"], weights_only=True)
        if trainer.is_global_zero:
            print_summary(write_summary(run_dir, trainer, model, started_at), run_dir, trainer)
        exit_code = 0
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(
            f"can't write {error.filename or run_dir}: {error.strerror}; {describe_last_checkpoint(trainer)}"
        ) from error
    except RunStopped as stop:
        exit_code = STOPPED
        if trainer.is_global_zero:
            where, seen = f"run_dir={run_dir} resume=last", f"{model.images_seen:,} images"
            print(f"stopped by {stop.signal_name} after {seen}; the same command with {where} goes on")
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if not config["resume"] or model.training_since or isinstance(error, torch.distributed.DistError):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"the checkpoint {config['resume']} holds a state that can't be restored ({reason}); give another"
        ) from error
    finally:
        for run_logger in loggers:
            if hasattr(run_logger, "finish"):
                run_logger.finish(exit_code)
        signals.uninstall()


def build_loggers(config: dict[str, Any], checkpoint: dict[str, Any]) -> list[Any]:
    """The run's loggers; those of a resumed run go on behind the checkpoint's last row."""
    configs = [dict(run_logger) for run_logger in config["logger"].values() if run_logger]
    if config["resume"]:
        for run_logger in configs:
            if run_logger["_target_"].endswith(".TensorBoardLogger"):
                run_logger["purge_step"] = checkpoint["images_seen"] + 1
    loggers = [instantiate(run_logger, _convert_="all") for run_logger in configs]
    for run_logger in loggers:
        if config["resume"] and hasattr(run_logger, "resume"):
            run_id = nested_value(checkpoint, str, "logger_versions", run_logger.name)
            run_logger.resume(run_id, run_dir_of(Path(config["resume"])) or Path(config["run_dir"]))
    return loggers


def build_trainer(config: dict[str, Any], model: GenerativeModel, **options: Any) -> Trainer:
    """Lightning's Trainer; with several processes and strategy `auto`, the strategy that the model needs."""
    # Without our callback Lightning would add its own.
    has_checkpoints = any(isinstance(callback, Checkpoints) for callback in options["callbacks"])
    trainer_config = {"enable_checkpointing": has_checkpoints, **config}
    if count_processes(config) > 1 or config["num_nodes"] > 1:
        if config["strategy"] == "auto":
            trainer_config["strategy"] = model.ddp_strategy
        if config["accelerator"] == "auto" and not torch.cuda.is_available():
            trainer_config["accelerator"] = "cpu"
    try:
        return instantiate(trainer_config, **options)
    except InstantiationException as error:
        raise UserError(f"trainer: {error.__cause__ or error}") from error


def quieten_lightning() -> None:
    """Drops Lightning's remarks on hardware and on choices that are made on purpose here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for remark in (
        ".*does not have many workers.*",
        ".*Checkpoint directory.*",
        ".*no logger configured.*",
        ".*find_unused_parameters=True.*",
        ".*srun.*",
        ".*GPU available but not used.*",
        ".*mid-epoch.*",
        ".*isn't resumable.*",
        ".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=remark)
