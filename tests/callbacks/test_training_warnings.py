"""Warnings on series whose meaning is known, and of runs that really go wrong."""

from functools import partial
from typing import Any

import pytest
import torch

from src.callbacks.evaluation import Evaluation
from src.callbacks.training_scalars import TrainingScalars
from src.callbacks.training_warnings import MESSAGES, TrainingWarnings
from src.data.datamodule import ImageDataModule
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import Diversity
from src.objectives.adversarial import NonSaturating
from src.objectives.gradient_penalty import ZeroCentered
from tests.callbacks.test_training_scalars import Recorder
from tests.helpers.feature_networks import PatchMeans, smooth_images
from tests.helpers.tiny import InMemory, tiny_gan, tiny_vae, train

HEALTHY = {
    "train/real_logits": 1.0,
    "train/fake_logits": -1.0,
    "train/discriminator_auroc": 0.8,
    "train/generator_gradient_norm": 1.0,
    "diversity_lite0": 0.9,
    "diversity_lite0_dimension": 0.8,
}


def track(series: list[dict[str, float]], **options: Any) -> list[tuple[int, str, bool]]:
    """Return the warnings that begin and pass, for values logged every 1,000 images from 30,000 on."""
    warnings = TrainingWarnings(every_images=1_000, **({"patience_images": 3_000} | options))
    return [
        (30 + index, kind, began)
        for index, values in enumerate(series)
        for kind, began in warnings.update_symptoms(HEALTHY | values, 30_000 + 1_000 * index).items()
    ]


def test_a_healthy_run_is_not_warned_of() -> None:
    assert track([{}] * 10) == []


def test_a_discriminator_that_is_good_but_not_sure_has_not_won() -> None:
    assert track([{"train/discriminator_auroc": 1.0}] * 10) == []


@pytest.mark.parametrize("sure", [{"train/real_logits": 9.5}, {"train/generator_gradient_norm": 0.009}])
def test_discriminator_has_won_after_patience_and_once_until_it_has_passed(sure: dict[str, float]) -> None:
    won = {"train/discriminator_auroc": 0.995, **sure}
    less = won | {"train/discriminator_auroc": 0.96}
    kind = "discriminator_has_won"
    assert track([{}, *[won] * 3, less, *[won] * 3]) == []  # never for long enough
    assert track([{}, *[won] * 6, less, *[won] * 6]) == [(34, kind, True)]  # 0.96 is not gone
    assert track([{}, *[won] * 4, {}, *[won] * 4]) == [(34, kind, True), (35, kind, False), (39, kind, True)]


def test_discriminator_at_chance_after_patience_until_it_is_clearly_better_than_a_guess() -> None:
    kind = "discriminator_at_chance"
    dead = {"train/discriminator_auroc": 0.5, "train/real_logits": 0.001, "train/fake_logits": 0.0}
    assert track([{}, *[dead] * 3, {}, *[dead] * 3]) == []  # never for long enough
    assert track([*[dead] * 5, dead | {"train/discriminator_auroc": 0.55}, *[dead] * 4]) == [(33, kind, True)]
    assert track([*[dead] * 5, dead | {"train/discriminator_auroc": 0.6}]) == [(33, kind, True), (35, kind, False)]
    # A critic far from either may still be worth its while in logits, or in order.
    assert (
        track([dead | {"train/real_logits": 0.3}] * 9) == track([dead | {"train/discriminator_auroc": 0.6}] * 9) == []
    )


@pytest.mark.parametrize("name", ["diversity_lite0", "diversity_lite0_dimension"])
def test_modes_collapse_below_real_images_or_below_the_own_best(name: str) -> None:
    kind = "modes_collapse"
    assert track([{name: 0.6}, {name: 0.39}, {name: 0.45}, {name: 0.39}, {name: 0.5}]) == [
        (31, kind, True),
        (34, kind, False),
    ]
    assert track([{name: 1.0}, {name: 0.61}, {name: 0.59}, {name: 0.7}, {name: 0.73}]) == [
        (32, kind, True),
        (34, kind, False),
    ]
    assert track([{name: 0.1}], warmup_images=40_000) == []


def test_logits_explode_at_once() -> None:
    kind = "logits_explode"
    series = [{}, {"train/fake_logits": -120.0}, {"train/fake_logits": -70.0}, {"train/fake_logits": -120.0}, {}]
    assert track(series) == [(31, kind, True), (34, kind, False)]


def test_state_travels_in_the_checkpoint() -> None:
    one, other = (TrainingWarnings(every_images=1_000) for _ in range(2))
    exploded = HEALTHY | {"train/real_logits": 300.0}
    assert one.update_symptoms(exploded, 30_000) == {"logits_explode": True}
    other.load_state_dict(one.state_dict())
    assert other.update_symptoms(exploded, 31_000) == {}
    assert other.state_dict() == one.state_dict()
    earlier = one.state_dict() | {"warned": {"logits_explode": True}}
    other.load_state_dict(earlier)  # of a version that knew one kind
    assert other.update_symptoms(exploded, 32_000) == {}


def run_of(capsys: pytest.CaptureFixture[str], model: Any, **options: Any) -> tuple[str, dict[str, float]]:
    """Trains; returns what was printed and the first value of every warning that was logged."""
    recorder = Recorder()
    metrics = FeatureMetrics(PatchMeans(), {"diversity_patches": Diversity()})
    callbacks = [
        TrainingScalars(every_images=20),
        Evaluation(
            every_images=100, feature_metrics={"patches": metrics}, num_images=32, cache_dir="/nonexistent/cache"
        ),
        TrainingWarnings(every_images=20, warmup_images=0, **({"patience_images": 100} | options)),
    ]
    data = ImageDataModule(InMemory(smooth_images(40, seed=0, size=32)), image_size=32, batch_size=4)
    train(model, data, 400, callbacks, [recorder])
    logged = [(name, value) for row in recorder.rows.values() for name, value in row.items() if "warnings/" in name]
    return capsys.readouterr().err, dict(reversed(logged))


@pytest.mark.filterwarnings("ignore:the features of the real images are not cached")
def test_a_discriminator_without_an_opponent_wins_and_its_opponent_makes_one_image(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The generator does not learn, and makes nearly the same of all noise; nothing holds the discriminator back."""
    gan = tiny_gan(
        adversarial_loss=NonSaturating(),
        gradient_penalty=ZeroCentered(0.0, 0.0),
        generator_optimizer=partial(torch.optim.Adam, lr=0.0),
        discriminator_optimizer=partial(torch.optim.Adam, lr=1e-2),
    )
    said, logged = run_of(capsys, gan)
    for kind in ("discriminator_has_won", "modes_collapse"):
        assert said.count(MESSAGES[kind]) == 1
        assert logged[f"warnings/{kind}"] == 1


@pytest.mark.filterwarnings("ignore:the features of the real images are not cached")
def test_a_discriminator_that_answers_the_same_for_every_image_is_at_chance(capsys: pytest.CaptureFixture[str]) -> None:
    gan = tiny_gan(discriminator_optimizer=partial(torch.optim.Adam, lr=0.0))
    *_, last = (layer for layer in gan.discriminator.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear))
    for weight in last.parameters():
        torch.nn.init.zeros_(weight)
    said, logged = run_of(capsys, gan)
    assert said.count(MESSAGES["discriminator_at_chance"]) == 1
    assert logged["warnings/discriminator_at_chance"] == 1


@pytest.mark.filterwarnings("ignore:the features of the real images are not cached")
def test_a_model_without_a_discriminator_is_not_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_of(capsys, tiny_vae()) == ("", {})
