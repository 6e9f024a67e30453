"""Trains one run in one process (of perhaps several): builds what the config names, fits, sums up."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import InstantiationException
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException

from src.callbacks.checkpoints import Checkpoints
from src.callbacks.periodic import StepSeeds
from src.callbacks.stop_signals import StopSignals
from src.callbacks.training_scalars import MeasureSpeed
from src.config.validation import instantiate
from src.core.errors import STOPPED, RunStopped, UserError
from src.core.files import write_atomic
from src.core.run_folder import CONFIG, full_disk_explained
from src.core.types import UNMEASURED
from src.data.datamodule import ImageDataModule
from src.models.base import GenerativeModel
from src.models.checkpoint.config import portable_config
from src.models.checkpoint.loading import initialize_from, read_checkpoint
from src.models.checkpoint.states import check_loops
from src.training.launcher import count_ranks
from src.training.resume import restore_run_dir, set_max_images
from src.training.summary import print_summary, write_summary

# A run with a budget in seconds first takes steps for this share of it, and at least so many seconds.
SHARE_OF_BUDGET, AT_LEAST_S = 0.01, 3.0


def fit(config: dict[str, Any]) -> None:
    """Train as the resolved config says and leave everything in config["run_dir"].

    RunStopped if a signal asked the run to stop; UserError for what the user can mend.
    """
    quieten_lightning()
    run_dir = Path(config["run_dir"])
    if config["max_images"] == UNMEASURED:
        config = measured(config)
    # The same initial weights on every rank; StepSeeds seeds the noise of the steps.
    torch.manual_seed(config["seed"])
    model: GenerativeModel = instantiate(config["model"])
    model.config = portable_config(config)
    checkpoint: dict[str, Any] = {"images_seen": 0}
    if config["resume"]:
        # Lightning restores the rest, the weights among it.
        checkpoint = read_checkpoint(config["resume"])
        model.images_seen = checkpoint["images_seen"]
    origin = initialize_from(model, config["init_from"]) if config.get("init_from") else ""
    data: ImageDataModule = instantiate(config["data"])
    callbacks = {name: instantiate(callback) for name, callback in config["callbacks"].items() if callback}
    for name in {"checkpoints", "training_scalars"} - callbacks.keys():
        raise UserError(f"callbacks.{name}=null: every run needs it; leave this option out")
    with full_disk_explained(run_dir, config["resume"]):
        loggers = build_loggers(config, checkpoint)
    trainer = build_trainer(config, model, [StepSeeds(config["seed"]), *callbacks.values()], loggers)
    exit_code = 1
    with guarded(callbacks["checkpoints"].signals):
        try:
            with full_disk_explained(run_dir):
                if trainer.is_global_zero:
                    print(f"data: {data.source.description}", *filter(None, [origin]), sep="\n", flush=True)
                    with full_disk_explained(run_dir, config["resume"]):
                        restore_run_dir(config["resume"], run_dir, checkpoint)
                        write_atomic(run_dir / CONFIG, yaml.safe_dump(config, sort_keys=False))
                for logger in loggers:
                    logger.log_hyperparams(config)
                check_loops(trainer.fit_loop.state_dict(), (checkpoint.get("loops") or {}).get("fit_loop", {}))
                trainer.fit(model, data, ckpt_path=config["resume"], weights_only=True)
                if trainer.is_global_zero:
                    print_summary(write_summary(run_dir, trainer, model, callbacks), run_dir)
            exit_code = 0
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if not config["resume"] or model.training_since or isinstance(error, torch.distributed.DistError):
                raise
            # A state of the checkpoint that is another model's, or none.
            reason = f"{config['resume']} holds a state that can't be restored ({type(error).__name__}: {error!s:.200})"
            raise UserError(f"the checkpoint {' '.join(reason.split())}; give another") from error
        except RunStopped as stop:
            exit_code = STOPPED
            if trainer.is_global_zero:
                again = f"the same command with run_dir={run_dir} resume=last goes on"
                print(f"stopped by {stop.signal_name} after {model.images_seen:,} images; {again}")
            raise
        finally:
            for logger in loggers:
                if hasattr(logger, "finish"):
                    logger.finish(exit_code)


def measured(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with the max_images that fit into its budgets in seconds, by the speed of some steps."""
    budgets = {"images_per_second": config["budget_s"], "images_per_cpu_second": config["budget_cpu_s"]}
    budgets = {speed: seconds for speed, seconds in budgets.items() if seconds}
    measure_speed = MeasureSpeed(at_least_s=max(AT_LEAST_S, SHARE_OF_BUDGET * min(budgets.values())))
    model = instantiate(config["model"])
    trainer = build_trainer(config, model, [StepSeeds(config["seed"]), measure_speed], logger=False)
    with guarded(StopSignals()):
        trainer.fit(model, instantiate(config["data"]))
    speeds = {speed: trainer.callback_metrics[f"train/{speed}"].item() for speed in budgets}
    max_images = max(int(min(seconds * speeds[speed] for speed, seconds in budgets.items())), 1)
    if trainer.is_global_zero:
        shown = ", ".join(f"{speed}={value:,.1f}" for speed, value in speeds.items())
        print(f"measured {shown}: max_images={max_images}", flush=True)
    return set_max_images(config, max_images)


@contextmanager
def guarded(signals: StopSignals) -> Iterator[None]:
    """Handle signals in the meantime, and turn what Lightning refuses into a UserError."""
    signals.install()
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error
    finally:
        signals.uninstall()


def build_loggers(config: dict[str, Any], checkpoint: dict[str, Any]) -> list[Any]:
    """Build the run's loggers; those of a resumed run continue after the checkpoint's last row."""
    loggers = []
    for options in filter(None, config["logger"].values()):
        if config["resume"] and options["_target_"].endswith(".TensorBoardLogger"):
            options = options | {"purge_step": checkpoint["images_seen"] + 1}
        loggers.append(logger := instantiate(options))
        match checkpoint:
            case {"logger_versions": {logger.name: str(run_id)}} if hasattr(logger, "resume"):
                logger.resume(run_id)
    return loggers


def build_trainer(config: dict[str, Any], model: GenerativeModel, callbacks: list[Callback], logger: Any) -> Trainer:
    """Build Lightning's Trainer; with several ranks, strategy `auto` becomes the one that the model needs."""
    # Without our callback Lightning would add its own.
    has_checkpoints = any(isinstance(callback, Checkpoints) for callback in callbacks)
    options = {"enable_checkpointing": has_checkpoints, **config["trainer"]}
    if count_ranks(options) > 1 or options["num_nodes"] > 1:
        if options["strategy"] == "auto":
            options["strategy"] = model.ddp_strategy
        if options["accelerator"] == "auto" and not torch.cuda.is_available():
            options["accelerator"] = "cpu"
    try:
        # Called by us, as Hydra would copy callbacks that are dataclasses.
        build = instantiate({**options, "_partial_": True})
        trainer: Trainer = build(callbacks=callbacks, logger=logger, default_root_dir=config["run_dir"])
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        raise UserError(f"trainer: {cause or error}") from error
    # Lightning's own handlers would end the run without a checkpoint.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def quieten_lightning() -> None:
    """Drop Lightning's remarks on hardware and on choices that are made on purpose here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    remarks = (
        "does not have many workers|Checkpoint directory|no logger configured|find_unused_parameters=True|srun|"
        "GPU available but not used|mid-epoch|isn't resumable|LeafSpec"
    )
    warnings.filterwarnings("ignore", message=f".*({remarks})")
