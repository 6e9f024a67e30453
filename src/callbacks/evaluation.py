"""Judges the model at an interval and at the end; training never notices."""

from itertools import product
from typing import Any, Literal

import torch
from lightning import Callback, Trainer

from src.callbacks.periodic import log_metrics, should_run
from src.core.types import PositiveInt, Seed
from src.evaluation.evaluator import fit_prior, judge_losses, judge_posterior, judge_samples
from src.metrics.feature_metrics import FeatureMetrics
from src.models.base import GenerativeModel


class Evaluation(Callback):
    """Logs val/<name>, the losses on held-out images, and every metric of every feature network in feature_metrics, on
    num_images samples from always the same noise (seed) against the training or the held-out images, of which at
    most max_reference_images are used."""

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
        self.every_images, self.feature_metrics, self.num_images = every_images, feature_metrics, num_images
        self.reference, self.batch_size, self.seed, self.cache_dir = reference, batch_size, seed, cache_dir
        self.max_reference_images = max_reference_images

    def on_train_start(self, trainer: Trainer, model: GenerativeModel) -> None:  # type: ignore[override]
        if self.feature_metrics:
            trainer.datamodule.images(self.reference)  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: Trainer, model: GenerativeModel, *args: Any) -> None:  # type: ignore[override]
        if should_run(trainer, model, self.every_images):
            log_metrics(trainer, self.evaluate(trainer, model), model.images_seen)

    def evaluate(self, trainer: Trainer, model: GenerativeModel) -> dict[str, float]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        model.eval()
        model.broadcast_buffers()
        # Held-out losses may draw noise: always the same. The next training step seeds anew.
        torch.manual_seed(self.seed)
        metrics = {}
        if data.val.names:
            losses = judge_losses(model, data, "val", self.max_reference_images)
            losses |= judge_posterior(model, data, "val", self.max_reference_images)
            metrics = {f"val/{name}": value for name, value in losses.items()}
        fit_prior(model, data)
        for network, prior in product(self.feature_metrics.values(), model.priors()):
            metrics |= judge_samples(
                model,
                data,
                network,
                self.num_images,
                self.reference,
                self.seed,
                self.batch_size,
                self.cache_dir,
                self.max_reference_images,
                prior,
            )
        model.train()
        return metrics
