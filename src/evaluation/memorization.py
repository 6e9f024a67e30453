"""Memorization: samples beside their nearest training images, and distances to training and to held-out images."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from src.core.progress import track
from src.evaluation.evaluator import Evaluator
from src.metrics.feature_metrics import FeatureMetrics

MAX_SAMPLES = 1_000  # and held-out images, whose nearest training images are looked for
NEIGHBORS = 7  # training images beside each sample
HELD_OUT_QUANTILE = 0.01  # the fraction of held-out images that lie as near to a training image as a copy does


@torch.no_grad()
def memorization(evaluator: Evaluator, metrics: FeatureMetrics, rows: int) -> tuple[dict[str, float], Tensor, Tensor]:
    """Compare samples with their nearest training images, in one process.

    Returns, for the evaluator's num_images samples (at most MAX_SAMPLES) and its max_reference_images:

    nearest_<network>       median distance of a sample to its nearest training image, features scaled to length 1
    nearest_<network>_val   the same of held-out images, which are no copies
    copied_<network>        fraction of samples nearer to a training image than all but HELD_OUT_QUANTILE of the
                            held-out images are
    <distance>_train, _val  each distance of the samples to the held-out images and to as many training images: few
                            images make a Frechet distance higher, equally many equally so

    and a grid of at most so many rows and NEIGHBORS + 2 columns, uint8: a sample, a gap, its nearest training images;
    and the distances of these, (rows, NEIGHBORS).
    """
    metrics.to(evaluator.model.device)

    def extract(images: Tensor) -> Tensor:
        # In float64 the distance of copies is nearly 0.
        return metrics.features(images.to(metrics.device)).to(metrics.statistics_device).double()

    name, data, batch_size = metrics.features.name, evaluator.data, evaluator.batch_size
    train = data.images("train", evaluator.max_reference_images)
    held_out = data.val.select(slice(MAX_SAMPLES))
    batches = evaluator.model.sample_uint8(min(evaluator.num_images, MAX_SAMPLES), evaluator.seed, batch_size)
    samples = torch.cat(list(batches)).cpu()
    images = torch.cat([samples, held_out[:]])
    # Training images are mirrored by chance, so a mirrored copy is a copy.
    versions = [images, images.flip(-1)] if data.horizontal_flip else [images]
    queries = torch.stack([extract(version) for version in versions])

    # As many training images as held-out ones, evenly spaced.
    chosen = torch.zeros(len(train), dtype=torch.bool)
    chosen[torch.linspace(0, len(train) - 1, min(len(held_out), len(train))).round().long()] = True
    train_features: list[Tensor] = []

    def normalized_train_features() -> Iterator[Tensor]:
        tracked = track(train.batches(batch_size), len(train), f"nearest of {len(train):,} training images")
        for batch, is_chosen in zip(tracked, chosen.split(batch_size), strict=True):
            features = extract(batch)
            train_features.append(features[is_chosen])
            yield normalize(features)

    # Directions are compared: a dark image, whose features are short, would be near to everything unusual.
    distances, positions = nearest_neighbors(normalize(queries, dim=-1), normalized_train_features(), NEIGHBORS)
    of_samples, of_held_out = distances[: len(samples), 0], distances[len(samples) :, 0]
    values = {f"nearest_{name}": float(of_samples.median())}
    if len(held_out) > 1:
        values[f"nearest_{name}_val"] = float(of_held_out.median())
        values[f"copied_{name}"] = float((of_samples < of_held_out.quantile(HELD_OUT_QUANTILE)).float().mean())
        parts = [torch.cat(train_features), *queries[0].split([len(samples), len(held_out)])]
        to_train, sampled, to_val = (metrics.summarize_features([features]) for features in parts)
        values |= metrics.compare(to_train, sampled, "_train") | metrics.compare(to_val, sampled, "_val")

    gap = torch.full_like(samples[:1], 255)
    grid = [torch.cat([samples[[row]], gap, train[positions[row].cpu()]]) for row in range(min(rows, len(samples)))]
    return values, torch.cat(grid), distances[: len(grid)].cpu()


def nearest_neighbors(queries: Tensor, candidates: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distances from each query to its nearest candidates, and the candidates' positions.

    queries: (V, Q, D), V versions of each query, of which the nearest counts. candidates: chunks (N, D), of which one
    is in memory at a time; positions count through all of them. Both results are (Q, at most count), the nearest
    first. In float64, the distance of equal vectors is at most about 1e-6 of their length.
    """
    distances = queries.new_empty(queries.shape[1], 0)
    positions, start = distances.long(), 0
    for chunk in candidates:
        found = torch.cdist(queries, chunk.to(queries)).amin(dim=0)
        numbers = torch.arange(start, start + len(chunk), device=queries.device).expand_as(found)
        distances, order = torch.cat([distances, found], dim=1).sort(dim=1, stable=True)
        distances, order = distances[:, :count], order[:, :count]
        positions = torch.cat([positions, numbers], dim=1).gather(1, order)
        start += len(chunk)
    return distances, positions
