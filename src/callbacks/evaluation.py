"""Evaluates the model at an interval and at the end of a run; training is the same without it."""

from functools import partial
from typing import Any, Literal

import torch
from lightning import Trainer

from src.callbacks.periodic import PeriodicCallback, log_metrics
from src.core.types import PositiveInt, Seed
from src.evaluation.evaluator import Evaluator
from src.metrics.feature_metrics import FeatureMetrics
from src.models.base import GenerativeModel


class Evaluation(PeriodicCallback):
    """Logs val/<name>, the losses on held-out images, and the distances of samples by each of the feature_metrics.

    The num_images samples always come from the same noise (seed) and are compared with the training or the held-out
    images (reference), of which at most max_reference_images are used.
    """

    def __init__(
        self,
        every_images: PositiveInt,
        feature_metrics: dict[str, FeatureMetrics],
        num_images: PositiveInt,
        reference: Literal["train", "val"] = "train",
        batch_size: PositiveInt = 64,
        seed: Seed = 0,
        cache_dir: str | None = None,
        max_reference_images: PositiveInt = 50_000,
    ) -> None:
        super().__init__(every_images)
        self.make_evaluator = partial(
            Evaluator,
            feature_metrics=list(feature_metrics.values()),
            num_images=num_images,
            reference=reference,
            batch_size=batch_size,
            seed=seed,
            cache_dir=cache_dir,
            max_reference_images=max_reference_images,
        )

    def on_train_start(self, trainer: Trainer, model: Any) -> None:
        self.evaluator = self.make_evaluator(model, trainer.datamodule)  # type: ignore[attr-defined]
        if self.evaluator.feature_metrics:
            self.evaluator.data.images(self.evaluator.reference)  # raises UserError now if there are none

    def run(self, trainer: Trainer, model: GenerativeModel) -> None:
        model.eval()
        model.broadcast_buffers()
        # Held-out losses may draw noise, always the same. The next training step seeds anew.
        torch.manual_seed(self.evaluator.seed)
        metrics = {}
        if len(self.evaluator.data.val):
            held_out = self.evaluator.losses("val") | self.evaluator.posterior("val")
            metrics = {f"val/{name}": value for name, value in held_out.items()}
        self.evaluator.fit_prior()
        metrics |= self.evaluator.sample_metrics()
        model.train()
        log_metrics(trainer, metrics, model.images_seen)
