"""Evaluates the model at an interval and at the end of a run; training is the same without it."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning import Trainer

from src.callbacks.periodic import PeriodicCallback, log_metrics
from src.core.types import PositiveInt, Seed
from src.evaluation.evaluator import Evaluator
from src.metrics.feature_metrics import FeatureMetrics
from src.models.base import GenerativeModel


@dataclass(eq=False)
class Evaluation(PeriodicCallback):
    """Logs val/<name>, the losses on held-out images, and the distances of samples by each of the feature_metrics.

    The num_images samples always come from the same noise (seed) and are compared with the training or the held-out
    images (reference), of which at most max_reference_images are used.
    """

    feature_metrics: dict[str, FeatureMetrics]
    num_images: PositiveInt
    reference: Literal["train", "val"] = "train"
    seed: Seed = 0
    cache_dir: str | None = None
    max_reference_images: PositiveInt = 50_000

    def on_train_start(self, trainer: Trainer, model: Any) -> None:
        data, metrics = trainer.datamodule, list(self.feature_metrics.values())  # type: ignore[attr-defined]
        options = self.num_images, self.reference, self.seed, self.max_reference_images, self.cache_dir
        self.evaluator = Evaluator(model, data, metrics, *options)
        if metrics:
            data.images(self.reference)  # raises UserError now if there are none

    def run(self, trainer: Trainer, model: GenerativeModel) -> None:
        model.eval()
        model.broadcast_buffers()
        # Held-out losses may draw noise, always the same. The next training step seeds anew.
        torch.manual_seed(self.seed)
        metrics = {}
        if len(self.evaluator.data.val):
            held_out = self.evaluator.losses("val") | self.evaluator.posterior("val")
            metrics = {f"val/{name}": value for name, value in held_out.items()}
        self.evaluator.fit_prior()
        metrics |= self.evaluator.sample_metrics()
        model.train()
        log_metrics(trainer, metrics, model.images_seen)
