"""Metrics of models that encode, beside losses and samples: reconstructions, bounds on the likelihood, latents."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from src.core.images import to_uint8
from src.core.progress import track
from src.data.drawn_cats.source import DrawnCats
from src.evaluation.evaluator import BATCH_SIZE, Evaluator
from src.metrics.latents import dci, inverse_multiquadric_mmd, mutual_information_gap
from src.models.autoencoder import EncodingModel
from src.models.vae import VAE
from src.objectives.kl import nats_to_bits_per_dimension

COMPARED_LATENTS = 2_000  # at most, for what grows with their square


@torch.no_grad()
def representation(
    evaluator: Evaluator, model: EncodingModel, max_bound_images: int, importance_samples: int, fresh_cats: int
) -> list[tuple[str, dict[str, Any]]]:
    """Return metrics of held-out images by name, each with what they are of.

    They are of as many images as samples at most; max_bound_images: the most images whose likelihood is bounded, by
    importance_samples draws of each posterior. fresh_cats: see disentanglement.
    """
    torch.manual_seed(evaluator.seed)
    max_images = min(evaluator.num_images, evaluator.max_reference_images)
    images, bounded = (evaluator.number_of(evaluator.unseen, most) for most in (max_images, max_bound_images))
    return [
        (images, reconstruction_metrics(evaluator, model, max_images)),
        (bounded, likelihood_bounds(evaluator, model, max_bound_images, importance_samples)),
        (images, latent_metrics(evaluator, model, max_images)),
        ("fresh drawn cats", disentanglement(evaluator, model, fresh_cats)),
    ]


def reconstruction_metrics(evaluator: Evaluator, model: EncodingModel, max_images: int) -> dict[str, float]:
    """Return PSNR in decibels and SSIM, both of bytes and averaged over images, and the feature distances of the
    reconstructions from these images: 0 if they are perfect, however few."""

    def pairs(title: str) -> Iterator[tuple[Tensor, Tensor]]:
        for images in evaluator.batches(evaluator.unseen, title, max_images):
            yield images.to(model.device), to_uint8(model.reconstruct(evaluator.inputs(images)))

    psnr = PeakSignalNoiseRatio(data_range=255.0, reduction="elementwise_mean", dim=(1, 2, 3))
    ssim = StructuralSimilarityIndexMeasure(data_range=255.0)
    both = MetricCollection({"psnr": psnr, "ssim": ssim}, compute_groups=False).to(model.device)
    for images, reconstructions in pairs("reconstructions of {} images"):
        both.update(reconstructions.float(), images.float())
    results = {name: float(value) for name, value in both.compute().items()}
    enough = len(evaluator.data.images(evaluator.unseen)) > 1
    for metrics in evaluator.feature_metrics if enough else ():
        real = metrics.extract(evaluator.batches(evaluator.unseen, "features of {} images", max_images))
        found = metrics.extract(images for _, images in pairs("features of {} reconstructions"))
        results |= metrics.compare(real, found, "_reconstruction")
    return results


def likelihood_bounds(
    evaluator: Evaluator, model: EncodingModel, max_images: int, importance_samples: int
) -> dict[str, float]:
    """Return a VAE's ELBO and its importance-weighted bound on the same images, in bits per dimension."""
    if not isinstance(model, VAE):
        return {}
    found = evaluator.batches(evaluator.unseen, "bounds on the likelihood of {} images", max_images)
    batches = []
    for inputs in (evaluator.inputs(part) for images in found for part in images.split(32)):
        elbo = model.losses(inputs)["elbo_nats"]
        batches.append(torch.stack([elbo, model.importance_weighted_bound(inputs, importance_samples)]))
    bounds = torch.cat(batches, dim=1).cpu().double()  # MPS has no float64
    results: dict[str, float] = {}
    for name, nats in zip(("elbo", "importance_weighted"), bounds, strict=True):
        dimensions, log_levels = 3 * evaluator.data.image_size**2, model.likelihood.log_levels_per_unit
        bits = nats_to_bits_per_dimension(-nats.mean(), dimensions, log_levels)
        results[f"bound/{name}_bits_per_dim"] = bits.item()
    return results | {"bound/importance_samples": importance_samples, "bound/num_images": bounds.shape[1]}


def latent_metrics(evaluator: Evaluator, model: EncodingModel, max_images: int) -> dict[str, Any]:
    """Return the distance of latents from N(0, I), and a VAE's active units and KL of each dimension.

    Nothing of a single image, which has no variance.
    """
    if len(evaluator.data.images(evaluator.unseen, max_images)) < 2:
        return {}
    title = "posterior samples of {} images"
    drawn = evaluator.gather(model.sample_posterior, model.latent_dim, evaluator.unseen, title, COMPARED_LATENTS)
    results: dict[str, Any] = {"mmd": inverse_multiquadric_mmd(drawn, torch.randn(drawn.shape)).item()}
    posterior = evaluator.posterior(evaluator.unseen, max_images)
    if posterior:
        results["active_units"] = posterior.pop("active_units")
        results["kl_nats_of_dimensions"] = list(posterior.values())
    return results


def disentanglement(evaluator: Evaluator, model: EncodingModel, count: int) -> dict[str, float]:
    """Return MIG and DCI of so many drawn cats that the model has not seen, and <name>_floor of shuffled latents.

    The mutual information of few images is too high, more so for dimensions that know nothing. Other data has none.
    """
    data = evaluator.data
    if not isinstance(data.source, DrawnCats) or count < 2:
        return {}
    fresh = DrawnCats(count, data.source.seed + 1)
    cats = fresh.load(data.image_size, data.cache_dir)
    batches = track(cats.batches(BATCH_SIZE), len(cats), f"latents of {len(cats):,} fresh drawn cats")
    latents = torch.cat([model.encode(evaluator.inputs(batch)).cpu() for batch in batches]).double()
    shuffled = latents[torch.randperm(len(latents), generator=torch.Generator().manual_seed(evaluator.seed))]
    results: dict[str, float] = {"num_fresh_cats": len(cats)}
    assert cats.factors is not None
    for suffix, values in {"": latents.numpy(), "_floor": shuffled.numpy()}.items():
        truth = cats.factors.double().numpy()
        found = {"mig": mutual_information_gap(values, truth), **dci(values, truth)}
        results |= {f"{name}{suffix}": value for name, value in found.items()}
    return results
