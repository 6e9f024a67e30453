"""Says in plain words when adversarial training goes wrong, and what to try."""

import sys
from typing import Any

from lightning import Callback, Trainer

from src.callbacks.periodic import log_metrics, should_run
from src.core.types import Fraction, NonNegativeInt, PositiveFloat, PositiveInt
from src.models.base import GenerativeModel

# What is said: what it means, what to try.
WORDS = {
    "discriminator_has_won": "the discriminator has won: it tells real from generated images nearly always, and the "
    "generator learns little. Try a higher r1_gamma and r2_gamma in model.gradient_penalty, model/augmentation=ada, or "
    "a lower lr in model.discriminator_optimizer.",
    "modes_collapse": "modes collapse: samples are much more alike than real images. Try a higher r1_gamma and "
    "r2_gamma in model.gradient_penalty, lower learning rates, or model/adversarial_loss=relativistic; "
    "best.safetensors may be from before.",
    "logits_explode": "the logits explode: the discriminator's outputs grow without bound. Try a higher r1_gamma and "
    "r2_gamma in model.gradient_penalty, its interval=1, or lower learning rates.",
}


class Symptom:
    """Warned of once it has been there for patience_images, and again only after it was gone in between."""

    def __init__(self, patience_images: int) -> None:
        self.patience_images = patience_images
        self.since: int | None = None
        self.warned = False

    def update(self, is_there: bool, is_gone: bool, images_seen: int) -> None:
        if is_gone:
            self.since, self.warned = None, False
        elif is_there:
            self.since = images_seen if self.since is None else self.since
            self.warned |= images_seen - self.since >= self.patience_images
        elif not self.warned:
            self.since = None


class TrainingWarnings(Callback):
    """One warning a kind on the screen, and warnings/<kind> to the loggers: 1 where it begins, 0 where it has passed.

    discriminator_has_won: for patience_images the discriminator puts at least `accuracy` of the pairs of a real and a
    generated image in the right order, and either the mean logits are `gap` or more apart or the generator's
    gradient is below `vanished` of its largest so far. Gone below 0.95 of that accuracy.
    modes_collapse: a diversity_<network> of samples (or its _dimension) is below `diversity`, or below `fallen` of its
    own best, after warmup_images. Gone where it is 1.2 times as high.
    logits_explode: the mean logits are `explosion` or more apart. Gone below half of it.

    A Wasserstein critic may be sure of itself and its gradients healthy: give gap=1e9 there. It stands after
    TrainingScalars and Evaluation, whose values it reads.
    """

    def __init__(
        self,
        every_images: PositiveInt,
        patience_images: NonNegativeInt = 10_000,
        warmup_images: NonNegativeInt = 20_000,
        accuracy: Fraction = 0.99,
        gap: PositiveFloat = 10.0,
        vanished: PositiveFloat = 0.01,
        diversity: PositiveFloat = 0.4,
        fallen: PositiveFloat = 0.6,
        explosion: PositiveFloat = 100.0,
    ) -> None:
        self.every_images, self.warmup_images = every_images, warmup_images
        self.accuracy, self.gap, self.vanished = accuracy, gap, vanished
        self.diversity, self.fallen, self.explosion = diversity, fallen, explosion
        self.symptoms = {kind: Symptom(patience_images if kind == "discriminator_has_won" else 0) for kind in WORDS}
        # The highest that some values have been.
        self.highest: dict[str, float] = {}

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        if not should_run(trainer, model, self.every_images) or "train/fake_logits" not in trainer.callback_metrics:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        changes = {f"warnings/{kind}": float(began) for kind, began in self.look(values, model.images_seen).items()}
        if trainer.is_global_zero:
            for kind in [name.removeprefix("warnings/") for name, began in changes.items() if began]:
                print(f"warning after {model.images_seen:,} images: {WORDS[kind]}", file=sys.stderr, flush=True)
        if changes:
            log_metrics(trainer, changes, model.images_seen)

    def look(self, values: dict[str, float], images_seen: int) -> dict[str, bool]:
        """The kinds that begin (True) and those that have passed, from the latest value of everything logged."""
        was = {kind: symptom.warned for kind, symptom in self.symptoms.items()}
        gap = values["train/real_logits"] - values["train/fake_logits"]
        accuracy = values["train/discriminator_auroc"]
        gradient = values.get("train/generator_gradient_norm", self.vanished)
        largest = self.remember("train/generator_gradient_norm", gradient)
        self.symptoms["discriminator_has_won"].update(
            accuracy >= self.accuracy and (gap >= self.gap or gradient < self.vanished * largest),
            accuracy < 0.95 * self.accuracy,
            images_seen,
        )
        self.symptoms["logits_explode"].update(abs(gap) >= self.explosion, abs(gap) < 0.5 * self.explosion, images_seen)
        if images_seen >= self.warmup_images:
            # 1 is where the warning begins.
            heights = [
                value / max(self.diversity, self.fallen * self.remember(name, value))
                for name, value in values.items()
                if name.startswith("diversity_")
            ]
            lowest = min(heights, default=1.0)
            self.symptoms["modes_collapse"].update(lowest < 1, lowest >= 1.2, images_seen)
        return {kind: symptom.warned for kind, symptom in self.symptoms.items() if symptom.warned != was[kind]}

    def remember(self, name: str, value: float) -> float:
        self.highest[name] = max(value, self.highest.get(name, value))
        return self.highest[name]

    def state_dict(self) -> dict[str, Any]:
        symptoms = {kind: [symptom.since, symptom.warned] for kind, symptom in self.symptoms.items()}
        return {"symptoms": symptoms, "highest": self.highest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.highest = state_dict["highest"]
        for kind, (since, warned) in state_dict["symptoms"].items():
            self.symptoms[kind].since, self.symptoms[kind].warned = since, warned
