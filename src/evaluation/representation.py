"""Metrics of models that encode, beside losses and samples: reconstructions, bounds on the likelihood, latents."""

import sys
import time
from collections.abc import Callable, Iterator
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


@torch.no_grad()
def representation(
    evaluator: Evaluator, model: EncodingModel, max_bound_images: int, importance_samples: int
) -> dict[str, Any]:
    """Return metrics of as many reference images as samples by name, and print how long they take. For one process.

    max_bound_images: the most images whose likelihood is bounded, by importance_samples draws of each posterior.
    """
    torch.manual_seed(evaluator.seed)
    max_images = min(evaluator.num_images, evaluator.max_reference_images)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "reconstructions": lambda: reconstruction_metrics(evaluator, model, max_images),
        "bounds": lambda: likelihood_bounds(evaluator, model, max_bound_images, importance_samples),
        "latents": lambda: latent_metrics(evaluator, model, max_images),
    }
    results: dict[str, Any] = {}
    for name, compute in parts.items():
        started_at = time.perf_counter()
        values = compute()
        if values:
            print(f"{name}: {time.perf_counter() - started_at:.0f} s", file=sys.stderr)
        results |= values
    return results


def reconstruction_metrics(evaluator: Evaluator, model: EncodingModel, max_images: int) -> dict[str, float]:
    """Return PSNR in decibels and SSIM, both of bytes and averaged over images, and the feature distances."""

    def pairs(title: str) -> Iterator[tuple[Tensor, Tensor]]:
        for images in evaluator.batches(evaluator.reference, title, max_images):
            yield images.to(model.device), to_uint8(model.reconstruct(evaluator.inputs(images)))

    psnr = PeakSignalNoiseRatio(data_range=255.0, reduction="elementwise_mean", dim=(1, 2, 3))
    ssim = StructuralSimilarityIndexMeasure(data_range=255.0)
    both = MetricCollection({"psnr": psnr, "ssim": ssim}, compute_groups=False).to(model.device)
    for images, reconstructions in pairs("reconstructions of {} images"):
        both.update(reconstructions.float(), images.float())
    results = {name: float(value) for name, value in both.compute().items()}
    for metrics in evaluator.feature_metrics:
        real = evaluator.real_statistics(metrics)
        found = metrics.summarize(images for _, images in pairs("statistics of {} reconstructions"))
        results |= metrics.compare(real, found, "_reconstruction")
    return results


def likelihood_bounds(
    evaluator: Evaluator, model: EncodingModel, max_images: int, importance_samples: int
) -> dict[str, float]:
    """Return a VAE's ELBO and its importance-weighted bound on the same images, in bits per dimension."""
    if not isinstance(model, VAE):
        return {}
    batches = []
    for images in evaluator.batches(evaluator.reference, "bounds on the likelihood of {} images", max_images, 32):
        inputs = evaluator.inputs(images)
        elbo = model.losses(inputs)["elbo_nats"]
        batches.append(torch.stack([elbo, model.importance_weighted_bound(inputs, importance_samples)]))
    bounds = torch.cat(batches, dim=1).double()
    results: dict[str, float] = {}
    for name, nats in zip(("elbo", "importance_weighted"), bounds, strict=True):
        dimensions, log_levels = 3 * evaluator.data.image_size**2, model.likelihood.log_levels_per_unit
        bits = nats_to_bits_per_dimension(-nats.mean(), dimensions, log_levels)
        results[f"bound/{name}_bits_per_dim"] = bits.item()
    return results | {"bound/importance_samples": importance_samples, "bound/num_images": bounds.shape[1]}


def latent_metrics(evaluator: Evaluator, model: EncodingModel, max_images: int) -> dict[str, Any]:
    """Return the distance of all latents from N(0, I), a VAE's active units and KL of each dimension, and MIG and DCI
    where the data knows the factors of its images."""
    split, dim = evaluator.reference, model.latent_dim
    latents = evaluator.gather(model.encode, dim, split, "latents of {} images", max_images)
    title = "posterior samples of {} images"
    drawn = evaluator.gather(model.sample_posterior, dim, split, title, COMPARED_LATENTS)
    results: dict[str, Any] = {"mmd": inverse_multiquadric_mmd(drawn, torch.randn(drawn.shape)).item()}
    posterior = evaluator.posterior(split, max_images)
    if posterior:
        results["active_units"] = posterior.pop("active_units")
        results["kl_nats_of_dimensions"] = list(posterior.values())
    factors = evaluator.data.images(split, max_images).factors
    if factors is not None:
        values, truth = latents.double().numpy(), factors.double().numpy()
        results["mig"] = mutual_information_gap(values, truth)
        results |= dci(values[:COMPARED_LATENTS], truth[:COMPARED_LATENTS])
    return results
