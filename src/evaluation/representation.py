"""Metrics of models that encode, beside losses and samples: reconstructions, bounds on the likelihood, latents."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from src.core.images import to_uint8
from src.evaluation.evaluator import Evaluator
from src.metrics.latents import dci, inverse_multiquadric_mmd, mutual_information_gap
from src.models.autoencoder import EncodingModel
from src.models.vae import VAE
from src.objectives.kl import nats_to_bits_per_dimension

COMPARED_LATENTS = 2_000  # at most, for what grows with their square or fits forests


@dataclass(frozen=True)
class Representation:
    """The representation metrics of an evaluator's model, on as many reference images as it draws samples.

    max_bound_images: the most images whose likelihood is bounded, by importance_samples draws of each posterior.
    """

    evaluator: Evaluator
    model: EncodingModel
    max_bound_images: int
    importance_samples: int

    @property
    def max_images(self) -> int:
        """The most images that are reconstructed and encoded."""
        return min(self.evaluator.num_images, self.evaluator.max_reference_images)

    @torch.no_grad()
    def metrics(self) -> dict[str, Any]:
        """Return all of them by name, and print how long each part takes. For one process only."""
        torch.manual_seed(self.evaluator.seed)
        results: dict[str, Any] = {}
        for compute in (self.reconstructions, self.bounds, self.latents):
            started_at = time.perf_counter()
            values = compute()
            if values:
                print(f"{compute.__name__}: {time.perf_counter() - started_at:.0f} s", file=sys.stderr)
            results |= values
        return results

    def reconstructions(self) -> dict[str, float]:
        """Return PSNR in decibels and SSIM, both of bytes and averaged over images, and the feature distances."""
        psnr = PeakSignalNoiseRatio(data_range=255.0, reduction="elementwise_mean", dim=(1, 2, 3))
        ssim = StructuralSimilarityIndexMeasure(data_range=255.0)
        both = MetricCollection({"psnr": psnr, "ssim": ssim}, compute_groups=False).to(self.model.device)
        for images, reconstructions in self.pairs("reconstructions of {} images"):
            both.update(reconstructions.float(), images.float())
        results = {name: float(value) for name, value in both.compute().items()}
        for metrics in self.evaluator.feature_metrics:
            real = self.evaluator.real_statistics(metrics)
            found = metrics.summarize(images for _, images in self.pairs("statistics of {} reconstructions"))
            results |= metrics.compare(real, found, "_reconstruction")
        return results

    def pairs(self, title: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of images and of their reconstructions, both uint8 (N, 3, H, W)."""
        for images in self.evaluator.batches(self.evaluator.reference, title, self.max_images):
            reconstructions = self.model.reconstruct(self.evaluator.inputs(images))
            yield images.to(self.model.device), to_uint8(reconstructions)

    def bounds(self) -> dict[str, float]:
        """Return a VAE's ELBO and its importance-weighted bound on the same images, in bits per dimension."""
        if not isinstance(self.model, VAE):
            return {}
        batches = []
        title = "bounds on the likelihood of {} images"
        for images in self.evaluator.batches(self.evaluator.reference, title, self.max_bound_images, batch_size=32):
            inputs = self.evaluator.inputs(images)
            elbo = self.model.losses(inputs)["elbo_nats"]
            batches.append(torch.stack([elbo, self.model.importance_weighted_bound(inputs, self.importance_samples)]))
        bounds = torch.cat(batches, dim=1).double()
        dimensions, log_levels = 3 * self.evaluator.data.image_size**2, self.model.likelihood.log_levels_per_unit
        elbo, importance_weighted = (
            nats_to_bits_per_dimension(-nats.mean(), dimensions, log_levels).item() for nats in bounds
        )
        return {
            "bound/elbo_bits_per_dim": elbo,
            "bound/importance_weighted_bits_per_dim": importance_weighted,
            "bound/importance_samples": self.importance_samples,
            "bound/num_images": bounds.shape[1],
        }

    def latents(self) -> dict[str, Any]:
        """Return the distance of all latents from N(0, I), a VAE's active units and KL of each dimension, and MIG and
        DCI where the data knows the factors of its images."""
        split, dim = self.evaluator.reference, self.model.latent_dim
        latents = self.evaluator.gather(self.model.encode, dim, split, "latents of {} images", self.max_images)
        drawn = self.evaluator.gather(
            self.model.sample_posterior, dim, split, "posterior samples of {} images", COMPARED_LATENTS
        )
        results: dict[str, Any] = {"mmd": inverse_multiquadric_mmd(drawn, torch.randn(drawn.shape)).item()}
        posterior = self.evaluator.posterior(split, self.max_images)
        if posterior:
            results["active_units"] = posterior.pop("active_units")
            results["kl_nats_of_dimensions"] = list(posterior.values())
        factors = self.evaluator.data.images(split, self.max_images).factors
        if factors is not None:
            values, truth = latents.double().numpy(), factors.double().numpy()
            results["mig"] = mutual_information_gap(values, truth)
            results |= dci(values[:COMPARED_LATENTS], truth[:COMPARED_LATENTS])
        return results
