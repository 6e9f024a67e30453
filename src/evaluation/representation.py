"""What models that encode are judged by beside losses and samples: reconstructions, likelihood, codes."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from src.core.images import from_uint8, to_uint8
from src.data.datamodule import ImageDataModule
from src.evaluation.evaluator import Reference, gather, judge_posterior, real_statistics, watched_share
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.latents import dci, inverse_multiquadric_mmd, mutual_information_gap
from src.models.autoencoder import EncodingModel
from src.models.vae import VAE
from src.objectives.kl import nats_to_bits_per_dimension


@dataclass(frozen=True)
class Limits:
    """How much is computed at most: images that are reconstructed and encoded, images whose likelihood is bounded
    by importance_samples draws each, and codes in what grows with their square or fits forests."""

    reconstructed: int
    bounded: int
    importance_samples: int
    compared: int = 2_000


@torch.no_grad()
def judge_codes(
    model: EncodingModel, data: ImageDataModule, reference: Reference, networks: list[FeatureMetrics],
    limits: Limits, seed: int, cache_dir: str | None, most: int,
) -> dict[str, Any]:  # fmt: skip
    """All of it by name; one process only. Prints how long each part takes."""
    torch.manual_seed(seed)
    parts = {
        "reconstructions": lambda: judge_reconstructions(model, data, reference, networks, limits, cache_dir, most),
        "bounds": lambda: judge_bounds(model, data, reference, limits),
        "codes": lambda: judge_posteriors(model, data, reference, limits),
    }
    results: dict[str, Any] = {}
    for name, part in parts.items():
        started_at = time.perf_counter()
        found = part()
        if found:
            Console(stderr=True).print(f"{name}: {time.perf_counter() - started_at:.0f} s", highlight=False)
        results |= found
    return results


def judge_reconstructions(
    model: EncodingModel, data: ImageDataModule, reference: Reference, networks: list[FeatureMetrics],
    limits: Limits, cache_dir: str | None, most: int,
) -> dict[str, float]:  # fmt: skip
    """PSNR in decibels and SSIM, both of bytes and averaged over the images; distances to the images of a split."""
    psnr = PeakSignalNoiseRatio(data_range=255.0, reduction="elementwise_mean", dim=(1, 2, 3)).to(model.device)
    ssim = StructuralSimilarityIndexMeasure(data_range=255.0).to(model.device)

    def pairs(title: str) -> Iterator[tuple[Tensor, Tensor]]:
        for images in watched_share(data, reference, 64, limits.reconstructed, title):
            yield images.to(model.device), to_uint8(model.reconstruct(from_uint8(images).to(model.device, model.dtype)))

    for images, ours in pairs("reconstructions of {} images"):
        psnr.update(ours.float(), images.float())
        ssim.update(ours.float(), images.float())
    similarity = ssim.compute()
    assert isinstance(similarity, Tensor)
    results = {"psnr": psnr.compute().item(), "ssim": similarity.item()}
    for metrics in networks:
        real = real_statistics(metrics.to(model.device), data, reference, 64, cache_dir, most)
        found = metrics.summarize(ours for _, ours in pairs("statistics of {} reconstructions"))
        results |= {f"{name}_reconstruction": value for name, value in metrics.compare(real, found).items()}
    return results


def judge_bounds(model: EncodingModel, data: ImageDataModule, reference: Reference, limits: Limits) -> dict[str, float]:
    """The ELBO and the importance-weighted bound on the same images, in bits per dimension."""
    if not isinstance(model, VAE):
        return {}
    nats: dict[str, list[Tensor]] = {"elbo": [], "importance_weighted": []}
    for images in watched_share(data, reference, 32, limits.bounded, "bounds on the likelihood of {} images"):
        inputs = from_uint8(images).to(model.device, model.dtype)
        nats["elbo"].append(model.losses(inputs)["elbo_nats"])
        nats["importance_weighted"].append(model.importance_weighted_bound(inputs, limits.importance_samples))
    dimensions = 3 * data.image_size**2
    return {
        f"bound/{name}_bits_per_dim": nats_to_bits_per_dimension(
            -torch.cat(values).double().mean(), dimensions, model.likelihood.log_levels_per_unit
        ).item()
        for name, values in nats.items()
    } | {"bound/importance_samples": limits.importance_samples, "bound/num_images": len(torch.cat(nats["elbo"]))}


def judge_posteriors(
    model: EncodingModel, data: ImageDataModule, reference: Reference, limits: Limits
) -> dict[str, Any]:
    """KL per dimension and active units of a VAE; the distance of all codes from N(0, I); MIG and DCI where the source
    knows the factors of its images."""
    most = limits.reconstructed
    codes = gather(model.encode, model.latent_dim, model, data, reference, most, "codes of {} images")
    drawn = gather(
        model.sample_posterior, model.latent_dim, model, data, reference, limits.compared, "draws of {} codes"
    )
    results: dict[str, Any] = {"mmd": inverse_multiquadric_mmd(drawn, torch.randn(drawn.shape)).item()}
    posterior = judge_posterior(model, data, reference, most)
    if posterior:
        results["active_units"] = posterior.pop("active_units")
        results["kl_nats_of_dimensions"] = list(posterior.values())
    factors = data.images(reference, most).factors
    if factors is not None:
        known, truth = codes.double().numpy(), factors.double().numpy()
        results["mig"] = mutual_information_gap(known, truth)
        results |= dci(known[: limits.compared], truth[: limits.compared])
    return results
