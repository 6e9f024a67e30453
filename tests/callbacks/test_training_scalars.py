"""Training scalars: means and speeds over the interval, and a run that stops at a number that is not finite."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from src.callbacks.checkpoints import Checkpoints
from src.callbacks.training_scalars import TrainingScalars
from src.core.errors import UserError
from src.models.checkpoint.format import read_file
from src.models.gan import GAN
from src.objectives.adversarial import NonSaturating
from tests.helpers.tiny import ScriptedModel, identical, snapshot, tiny_data, tiny_gan, tiny_vae, train

NAN, INFINITY = float("nan"), float("inf")
STEP_S, BATCH_S = 0.02, 0.06


class Recorder(Logger):
    """A logger that keeps what it is given, by images seen."""

    name, version = "recorder", "0"

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step == metrics["images_seen"]
        self.rows[step] = metrics

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class Alternating(ScriptedModel):
    """A model that returns a second value in every other step."""

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        values = super().training_step(images, batch_idx)
        return values | ({"second": torch.tensor(float(self.images_seen))} if self.images_seen % 8 == 0 else {})


def recorded(model: ScriptedModel, *callbacks: Callback, **options: Any) -> dict[int, dict[str, float]]:
    recorder = Recorder()
    train(model, tiny_data(batch_size=4, **options), 28, callbacks, [recorder])
    return recorder.rows


def test_means_are_over_the_steps_since_the_last_log() -> None:
    """Before step t the model of batch size 4 has seen 4 (t - 1) images, which is its loss."""
    rows = recorded(ScriptedModel(), TrainingScalars(every_images=12))
    assert {step: row["train/loss"] for step, row in rows.items()} == {12: 4.0, 24: 16.0, 28: 24.0}


def test_a_value_of_some_steps_is_averaged_over_those() -> None:
    rows = recorded(Alternating(), TrainingScalars(every_images=12))
    assert {step: row.get("train/second") for step, row in rows.items()} == {12: 8.0, 24: 20.0, 28: None}


class Slow(Callback):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_start(self, *args: Any) -> None:
        time.sleep(self.seconds)

    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(self.seconds)


class SlowModel(ScriptedModel):
    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        time.sleep(STEP_S)
        return super().training_step(images, batch_idx)


def test_speed_counts_steps_and_no_other_callbacks() -> None:
    scalars = TrainingScalars(every_images=12)
    rows = recorded(SlowModel(), scalars, Slow(0.3))
    assert scalars.total_images == 28
    assert 7 * STEP_S < scalars.total_seconds < 7 * 0.3
    assert scalars.images_per_second == pytest.approx(28 / scalars.total_seconds)
    assert all(4 / 0.3 < row["train/images_per_second"] < 4 / STEP_S for row in rows.values())
    # Sleeping takes no processor time.
    assert all(row["train/images_per_cpu_second"] > row["train/images_per_second"] for row in rows.values())


class Clock:
    """A clock that only sleeping moves."""

    now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_data_wait_is_the_share_of_the_time_between_steps_without_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)

    def slow(images: Tensor, images_seen: int) -> Tensor:
        time.sleep(BATCH_S)
        return images

    rows = recorded(SlowModel(), TrainingScalars(every_images=12), Slow(0.3), augmentation=slow)
    fractions = [row["train/data_wait_fraction"] for row in rows.values()]
    assert fractions == pytest.approx([BATCH_S / (BATCH_S + STEP_S)] * 3)


class Breaking(ScriptedModel):
    """A model whose gradient is 1, but for the step at which the loss or only the gradient breaks."""

    def __init__(self, at: int, loss: float = 0.0, gradient: float = 0.0, fused: bool = False) -> None:
        super().__init__()
        self.at, self.broken_loss, self.broken_gradient, self.fused = at, loss, gradient, fused

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        loss = self.weight * 1.0
        if self.images_seen == self.at:
            loss = loss + self.broken_loss
            if self.broken_gradient:
                loss.register_hook(lambda gradient: gradient * self.broken_gradient)
        self.count_images(images)
        return {"loss": loss, "unbroken": torch.ones(())}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1, fused=self.fused)


class BrokenOnce(NonSaturating):
    """A loss that is infinite for one player in the fourth step."""

    def __init__(self, player: str) -> None:
        self.player, self.steps = player, 0

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        self.steps += 1
        broken = self.player == "generator" and self.steps == 4
        return super().generator(real_logits, fake_logits) * (INFINITY if broken else 1)

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        broken = self.player == "discriminator" and self.steps == 3
        return super().discriminator(real_logits, fake_logits) * (INFINITY if broken else 1)


def logging_and_saving(folder: Path, every_images: int = 4) -> list[Any]:
    return [TrainingScalars(every_images), Checkpoints(str(folder), 8, monitor=None)]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("every_images", [4, 1000])
@pytest.mark.parametrize(
    ("at", "breaks"),
    # A broken gradient breaks the weights, and they the loss of the next step.
    [(12, {"loss": NAN}), (12, {"loss": INFINITY}), (8, {"gradient": NAN})],
)
def test_run_stops_with_the_name_the_images_and_the_checkpoint(
    at: int, breaks: dict[str, float], every_images: int, fused: bool, tmp_path: Path
) -> None:
    """With the long interval it is noticed as the next checkpoint is written."""
    model = Breaking(at, fused=fused, **breaks)
    with pytest.raises(UserError) as stopped:
        train(model, tiny_data(), 40, logging_and_saving(tmp_path, every_images))
    assert str(stopped.value) == (
        f"loss is not finite after 16 images; the last valid checkpoint is {tmp_path}/images_000000008.safetensors"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors",
        "images_000000008.safetensors",
        "last.safetensors",
    ]
    for path in tmp_path.iterdir():
        assert all(value.isfinite().all() for value in read_file(path)["state_dict"].values())


def test_broken_gradient_of_the_last_step_is_never_written(tmp_path: Path) -> None:
    """No later loss tells of it: the weights do."""
    model = Breaking(at=12, gradient=NAN)
    with pytest.raises(UserError, match=r"^weight is not finite after 16 images, so no checkpoint is written"):
        train(model, tiny_data(), 16, logging_and_saving(tmp_path))
    assert read_file(tmp_path / "last.safetensors")["images_seen"] == 8


@pytest.mark.parametrize("every_images", [4, 1000])
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_both_players_of_a_gan_are_checked(player: str, every_images: int, tmp_path: Path) -> None:
    """All later losses are broken too: the first is named."""
    model = tiny_gan(adversarial_loss=BrokenOnce(player))
    model.config = {"model": {"generator": {}}}
    with pytest.raises(UserError, match=rf"^{player}_loss( and \w+)* (is|are) not finite after 16 images"):
        train(model, tiny_data(), 40, logging_and_saving(tmp_path, every_images))
    assert read_file(tmp_path / "last.safetensors")["images_seen"] == 8


def test_gradients_under_16_mixed_are_left_to_the_scaler() -> None:
    """Its first steps overflow on purpose; the losses are checked all the same."""
    scalars = TrainingScalars(every_images=4)
    scalars._add({"loss": torch.ones(()), "generator_gradient_norm": torch.tensor(INFINITY)}, images_seen=4)
    assert scalars.finite_means(cast(Trainer, SimpleNamespace(precision="16-mixed")), images_seen=4)["loss"] == 1
    for precision, name in (("32-true", "generator_gradient_norm"), ("16-mixed", "loss")):
        scalars._add({name: torch.tensor(NAN)}, images_seen=8)
        with pytest.raises(UserError, match=f"{name} is not finite"):
            scalars.finite_means(
                cast(Trainer, SimpleNamespace(precision=precision, checkpoint_callback=None)), images_seen=8
            )


@pytest.mark.parametrize("build", [tiny_vae, tiny_gan])
def test_training_is_not_changed(build: Any) -> None:
    logged, alone = build(), build()
    for model, callbacks in ((logged, [TrainingScalars(every_images=8)]), (alone, [])):
        torch.manual_seed(0)
        train(model, tiny_data(), 24, callbacks)
    assert identical(logged, snapshot(alone))


def test_broken_weights_are_never_written(tmp_path: Path) -> None:
    class BreaksItself(GAN):
        def count_images(self, images: Tensor) -> None:
            super().count_images(images)
            if self.images_seen == 12:
                with torch.no_grad():
                    next(self.generator.parameters())[0] = NAN

    model = tiny_gan(BreaksItself)
    model.config = {"model": {"generator": {}}}
    with pytest.raises(UserError, match=r"generator\.\S+ is not finite after 12 images, so no checkpoint is written"):
        train(model, tiny_data(), 24, [Checkpoints(str(tmp_path), 4, monitor=None, keep=1)])
    assert read_file(tmp_path / "last.safetensors")["images_seen"] == 8
