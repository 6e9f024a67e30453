"""Losses, penalties and gradients that break: the run ends by name, or goes on without the step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.callbacks.checkpoints import Checkpoints
from src.callbacks.non_finite import NonFinite
from src.callbacks.training_scalars import TrainingScalars
from src.core.errors import UserError
from src.logger.csv import CSVLogger
from src.models.checkpoint.format import read_file
from src.models.gan import GAN
from src.objectives.adversarial import RelativisticPairing
from tests.helpers.tiny import ScriptedModel, identical, snapshot, tiny_data, tiny_gan, tiny_vae, train

NAN, INFINITY = float("nan"), float("inf")


class Breaking(ScriptedModel):
    """Its gradient is 1, but for the steps that break: there the loss or only the gradient does."""

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
        return {"loss": loss}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1, fused=self.fused)


class BrokenOnce(RelativisticPairing):
    """One player's loss is infinite in the fourth step."""

    def __init__(self, player: str) -> None:
        self.player, self.steps = player, 0

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        self.steps += 1
        broken = self.player == "generator" and self.steps == 4
        return super().generator(real_logits, fake_logits) * (INFINITY if broken else 1)

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        broken = self.player == "discriminator" and self.steps == 3
        return super().discriminator(real_logits, fake_logits) * (INFINITY if broken else 1)


def stop_and_save(folder: Path) -> list[Any]:
    return [NonFinite("stop", every_images=4), TrainingScalars(4), Checkpoints(str(folder), 8, monitor=None)]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("breaks", "name"),
    [({"loss": NAN}, "loss"), ({"loss": INFINITY}, "loss"), ({"gradient": NAN}, "the gradient of weight")],
)
def test_run_stops_with_the_name_the_images_and_the_checkpoint(
    breaks: dict[str, float], name: str, fused: bool, tmp_path: Path
) -> None:
    model = Breaking(at=12, fused=fused, **breaks)
    with pytest.raises(UserError) as stopped:
        train(model, tiny_data(), 40, stop_and_save(tmp_path))
    sentence = (
        f"{name} is not finite after 16 images; the last valid checkpoint is {tmp_path}/images_000000008.safetensors"
    )
    assert str(stopped.value) == sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors",
        "images_000000008.safetensors",
        "last.safetensors",
    ]
    assert model.weight.isfinite()


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_both_players_of_a_gan_are_watched(player: str, tmp_path: Path) -> None:
    model = tiny_gan(adversarial_loss=BrokenOnce(player))
    model.config = {}
    with pytest.raises(UserError, match=rf"^{player}_loss is not finite after 16 images"):
        train(model, tiny_data(), 40, stop_and_save(tmp_path))
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("breaks", [{"loss": NAN}, {"gradient": NAN}])
def test_skipped_step_leaves_everything_as_if_it_had_not_been(
    breaks: dict[str, float], fused: bool, tmp_path: Path
) -> None:
    skipping, shorter = Breaking(at=12, fused=fused, **breaks), Breaking(at=-1, fused=fused)
    callbacks = [NonFinite("skip", every_images=20), TrainingScalars(20)]
    trainer = train(skipping, tiny_data(), 20, callbacks, [CSVLogger(str(tmp_path))])
    reference = train(shorter, tiny_data(), 16)
    assert identical(skipping, snapshot(shorter))
    ours, theirs = (run.optimizers[0].state_dict()["state"][0] for run in (trainer, reference))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    assert trainer.callback_metrics["train/loss"].isfinite()


def test_gan_goes_on_where_steps_are_skipped() -> None:
    model = tiny_gan(adversarial_loss=BrokenOnce("discriminator"))
    trainer = train(model, tiny_data(), 40, [NonFinite("skip", every_images=8)])
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("build", [tiny_vae, tiny_gan])
def test_sound_training_is_not_touched(build: Any) -> None:
    track, alone = build(), build()
    for model, callbacks in ((track, [NonFinite("skip", every_images=8)]), (alone, [])):
        torch.manual_seed(0)
        train(model, tiny_data(), 24, callbacks)
    assert identical(track, snapshot(alone))


def test_broken_weights_are_never_written(tmp_path: Path) -> None:
    class BreaksItself(GAN):
        def count_images(self, images: Tensor) -> None:
            super().count_images(images)
            if self.images_seen == 12:
                with torch.no_grad():
                    next(self.generator.parameters())[0] = NAN

    model = tiny_gan(BreaksItself)
    model.config = {}
    with pytest.raises(UserError, match=r"generator\.\S+ is not finite after 12 images, so no checkpoint is written"):
        train(model, tiny_data(), 24, [Checkpoints(str(tmp_path), 4, monitor=None, keep=1)])
    assert read_file(tmp_path / "last.safetensors")["images_seen"] == 8
