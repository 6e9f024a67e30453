"""Memorization: the training images nearest to a sample, and whether the sample is a copy of one."""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from src.core.progress import track
from src.data.dataset import ImageDataset
from src.evaluation.evaluator import BATCH_SIZE, Evaluator
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.features import FeatureNetwork

MAX_SAMPLES = 1_000  # and held-out images, that are looked up
NEIGHBORS = 8  # training images that are found for each
# A copy: its thumbnail correlates more with that of a training image, or its distance to the nearest training image is
# a smaller part of the mean distance to the next seven. `python -m benchmarks.copies` measured both.
MIN_CORRELATION = 0.97
MAX_RATIO = 0.65
THUMBNAIL = 16
MARGIN = 16  # a thumbnail leaves out this part of the image on each side, so that others can be of shifted images
QUERIES = 256  # looked up at a time


@dataclass(frozen=True)
class Nearest:
    """What is nearest to each of Q images among N training images.

    positions, distances: (Q, min(N, NEIGHBORS)), by features of length 1, the nearest first; a distance is 0 to 2.
    correlations: (Q,), how alike the most alike training image's thumbnail is, at most 1.
    """

    positions: Tensor
    distances: Tensor
    correlations: Tensor

    @property
    def are_copies(self) -> Tensor:
        """True where an image is a copy of a training image, (Q,)."""
        ratios = self.distances[:, 0] / self.distances[:, 1:].mean(dim=1)
        return (self.correlations > MIN_CORRELATION) | (ratios < MAX_RATIO)


class TrainingImages:
    """Training images, read once: the features and the thumbnail of each, among which others are looked up.

    mirrored: a mirrored training image counts as one too.
    """

    def __init__(self, images: ImageDataset, network: FeatureNetwork, mirrored: bool) -> None:
        self.network, self.mirrored = network, mirrored
        features, found = [], []
        for batch in track(images.batches(BATCH_SIZE), len(images), f"features of {len(images):,} training images"):
            features.append(self.features(batch))
            found.append(thumbnails(batch, 0, 0))
        self.of_images, self.thumbnails = torch.cat(features), torch.cat(found)

    def features(self, images: Tensor) -> Tensor:
        """Return the features of images: directions, since a dark image has short ones, near to all others."""
        device = next(self.network.parameters(), images).device
        return normalize(self.network(images.to(device)).float()).cpu()

    @torch.no_grad()
    def nearest(self, images: Tensor) -> Nearest:
        """Look up images, uint8 (Q, 3, S, S)."""
        parts = [self.nearest_of_some(part) for part in images.cpu().split(QUERIES)]
        return Nearest(*(torch.cat([getattr(part, name) for part in parts]) for name in Nearest.__annotations__))

    def nearest_of_some(self, images: Tensor) -> Nearest:
        versions = [images, images.flip(-1)] if self.mirrored else [images]
        similarities = torch.stack([self.features(version) @ self.of_images.mT for version in versions]).amax(dim=0)
        highest, positions = similarities.topk(min(NEIGHBORS, len(self.of_images)), dim=1)
        margin = images.shape[-1] // MARGIN
        shifts = range(-margin, margin + 1, max(margin // 4, 1))
        correlations = torch.full((len(images),), -1.0)
        for version, down, right in product(versions, shifts, shifts):
            alike = thumbnails(version, down, right) @ self.thumbnails.mT
            correlations = torch.maximum(correlations, alike.amax(dim=1))
        return Nearest(positions, (2 - 2 * highest).clamp(min=0).sqrt(), correlations)


def thumbnails(images: Tensor, down: int, right: int) -> Tensor:
    """Return the inner part of images, shifted by some pixels, as mean-free gray 16x16 pixels of length 1: (N, 256)."""
    size = images.shape[-1]
    margin = size // MARGIN
    gray = images.float().mul(torch.tensor([0.299, 0.587, 0.114], device=images.device)[:, None, None]).sum(dim=1)
    inner = gray[:, margin + down : size - margin + down, margin + right : size - margin + right]
    small = adaptive_avg_pool2d(inner, THUMBNAIL).flatten(1).cpu()
    return normalize(small - small.mean(dim=1, keepdim=True))


@torch.no_grad()
def memorization(evaluator: Evaluator, metrics: FeatureMetrics, rows: int) -> tuple[dict[str, float], Tensor, Tensor]:
    """Look up samples among the training images, in one process.

    Returns, for the evaluator's num_images samples (at most MAX_SAMPLES) and its max_reference_images:

    copied_<network>        fraction of samples that are copies of a training image
    nearest_<network>       median distance of a sample to its nearest training image
    <either>_val            the same of held-out images

    and a grid of at most so many rows and NEIGHBORS + 2 columns, uint8: a sample, a gap, its nearest training images;
    and the distances of these, (rows, NEIGHBORS).
    """
    name, data = metrics.features.name, evaluator.data
    train = data.images("train", evaluator.max_reference_images)
    metrics.to(evaluator.model.device)
    search = TrainingImages(train, metrics.features, data.horizontal_flip)
    model, count = evaluator.model, min(evaluator.num_images, MAX_SAMPLES)
    batches = model.sample_uint8(count, evaluator.seed, model.default_prior)
    samples = torch.cat(list(batches)).cpu()
    found = search.nearest(samples)
    of_each = {"": found} | ({"_val": search.nearest(data.val[:MAX_SAMPLES])} if len(data.val) else {})
    values = {f"copied_{name}{suffix}": float(part.are_copies.double().mean()) for suffix, part in of_each.items()}
    values |= {f"nearest_{name}{suffix}": float(part.distances[:, 0].median()) for suffix, part in of_each.items()}
    gap = torch.full_like(samples[:1], 255)
    shown = range(min(rows, len(samples)))
    grid = [torch.cat([samples[[row]], gap, train[found.positions[row]]]) for row in shown]
    return values, torch.cat(grid), found.distances[: len(grid)]
