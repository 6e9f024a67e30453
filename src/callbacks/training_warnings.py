"""Warnings in plain words when adversarial training goes wrong, and what to try."""

import sys
from dataclasses import dataclass
from math import isfinite
from typing import Any

from lightning import Trainer

from src.callbacks.periodic import PeriodicCallback, log_metrics
from src.core.types import Fraction, NonNegativeInt, PositiveFloat
from src.models.base import GenerativeModel
from src.models.checkpoint.states import checked_state

MESSAGES = {
    "discriminator_has_won": "the discriminator has won: it tells real from generated images nearly always, and the "
    "generator learns little. Try a higher r1_gamma and r2_gamma in model.gradient_penalty, model/augmentation=ada, or "
    "a lower lr in model.discriminator_optimizer.",
    "discriminator_at_chance": "the discriminator is at chance: it tells real from generated images no better than a "
    "guess, so the generator learns nothing. Try a lower r1_gamma and r2_gamma in model.gradient_penalty, a higher "
    "model.discriminator.width, or a higher lr in model.discriminator_optimizer.",
    "modes_collapse": "modes collapse: samples are much more alike than real images. Try a higher r1_gamma and "
    "r2_gamma in model.gradient_penalty, lower learning rates, or model/adversarial_loss=relativistic; the best "
    "checkpoint may be from before.",
    "logits_explode": "the logits explode: the discriminator's outputs grow without bound. Try a higher r1_gamma and "
    "r2_gamma in model.gradient_penalty, its interval=1, or lower learning rates.",
}
STATE = {"since": dict[str, int], "warned": dict[str, bool], "highest": dict[str, float]}


@dataclass(eq=False)
class TrainingWarnings(PeriodicCallback):
    """Prints one warning a kind, and logs warnings/<kind>: 1 where it begins, 0 where it has passed.

    docs/diagnostics.md says when each does. This callback stands after TrainingScalars and Evaluation, whose values it
    reads.
    """

    patience_images: NonNegativeInt = 10_000  # how long the discriminator has won, or is at chance, before the warning
    warmup_images: NonNegativeInt = 20_000  # before which samples may be alike
    accuracy: Fraction = 0.99  # pairs of a real and a generated image in the right order, of one that has won
    gap: PositiveFloat = 10.0  # of its mean logits; 1e9 for a Wasserstein critic, whose gradients stay healthy
    vanished: PositiveFloat = 0.01  # gradient of the generator, as a share of its largest
    chance: Fraction = 0.53  # pairs in the right order, of a discriminator at chance
    chance_gap: PositiveFloat = 0.1
    diversity: PositiveFloat = 0.4  # of samples whose modes collapse
    fallen: PositiveFloat = 0.6  # the same, as a share of its own best
    explosion: PositiveFloat = 100.0  # gap of the mean logits

    def __post_init__(self) -> None:
        # The images seen when each symptom that is there began, whether it has been warned of, and the highest value so
        # far of each metric that is compared with its own best.
        self.since: dict[str, int] = {}
        self.warned = dict.fromkeys(MESSAGES, False)
        self.highest: dict[str, float] = {}

    def run(self, trainer: Trainer, model: GenerativeModel) -> None:
        if "train/fake_logits" not in trainer.callback_metrics:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        changes = self.update_symptoms(values, model.images_seen)
        if trainer.is_global_zero:
            for kind in filter(changes.get, changes):
                text = f"after {model.images_seen:,} images: {MESSAGES[kind]}"
                print(f"warning {text}", file=sys.stderr, flush=True)
                for logger in trainer.loggers:
                    if hasattr(logger, "alert"):
                        logger.alert(kind.replace("_", " "), text)
        if changes:
            metrics = {f"warnings/{kind}": float(begins) for kind, begins in changes.items()}
            log_metrics(trainer, metrics, model.images_seen)

    def update_symptoms(self, values: dict[str, float], images_seen: int) -> dict[str, bool]:
        """Return the warnings that begin (True) and those that have passed, given the newest value of each metric."""
        before = dict(self.warned)
        for kind, (is_there, is_gone) in self.symptoms(values, images_seen).items():
            # Between there and gone, a warning that was given stays.
            if is_gone or not (is_there or self.warned[kind]):
                self.since.pop(kind, None)
                self.warned[kind] = False
            elif is_there:
                patience = self.patience_images if kind.startswith("discriminator") else 0
                self.warned[kind] |= images_seen - self.since.setdefault(kind, images_seen) >= patience
        return {kind: warned for kind, warned in self.warned.items() if warned != before[kind]}

    def symptoms(self, values: dict[str, float], images_seen: int) -> dict[str, tuple[bool, bool]]:
        """Return whether each symptom is there, and whether it is gone."""
        gap, accuracy = values["train/real_logits"] - values["train/fake_logits"], values["train/discriminator_auroc"]
        gradient = values.get("train/generator_gradient_norm", self.vanished)
        has_vanished = gradient < self.vanished * self.update_highest("train/generator_gradient_norm", gradient)
        has_won = accuracy >= self.accuracy and (gap >= self.gap or has_vanished)
        symptoms = {
            "discriminator_at_chance": (
                accuracy <= self.chance and abs(gap) <= self.chance_gap,
                accuracy - 0.5 >= 2 * (self.chance - 0.5) or abs(gap) >= 2 * self.chance_gap,
            ),
            "discriminator_has_won": (has_won, accuracy < 0.95 * self.accuracy),
            "logits_explode": (abs(gap) >= self.explosion, abs(gap) < 0.5 * self.explosion),
        }
        if images_seen >= self.warmup_images:
            # Relative to the value below which the warning is given.
            diversities = [
                value / max(self.diversity, self.fallen * self.update_highest(name, value))
                for name, value in values.items()
                if name.startswith("diversity_")
            ]
            lowest = min(diversities, default=1.0)
            symptoms["modes_collapse"] = lowest < 1, lowest >= 1.2
        return symptoms

    def update_highest(self, name: str, value: float) -> float:
        """Return the highest finite value of a metric so far, this one among it."""
        # A gradient under 16-mixed may be infinite.
        self.highest[name] = max(self.highest.get(name, 0.0), value if isfinite(value) else 0.0)
        return self.highest[name]

    def state_dict(self) -> dict[str, Any]:
        return {"since": self.since, "warned": self.warned, "highest": self.highest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = checked_state("TrainingWarnings", state_dict, STATE)
        self.since, self.highest = state["since"], state["highest"]
        self.warned |= state["warned"]  # earlier checkpoints lack some kinds
