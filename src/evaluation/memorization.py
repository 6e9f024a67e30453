"""Whether a model has learnt images by heart: its samples beside their nearest training images, and its distances
to training and to held-out images side by side."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from src.core.progress import track
from src.data.datamodule import ImageDataModule
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import Statistics
from src.metrics.neighbours import nearest
from src.models.base import GenerativeModel

MOST_SAMPLES = 1_000  # and held-out images, whose nearest training images are looked for
NEIGHBOURS = 7  # training images beside each sample
AS_NEAR = 0.01  # the share of held-out images that lie as near to a training image as a copy does


@torch.no_grad()
def judge_generalization(
    model: GenerativeModel,
    data: ImageDataModule,
    metrics: FeatureMetrics,
    num_images: int,
    seed: int,
    batch_size: int,
    most: int,
    rows: int,
) -> tuple[dict[str, float], Tensor]:
    """Of num_images samples (at most MOST_SAMPLES) and at most so many training images, in one process:

    nearest_<network>       median distance of a sample to its nearest training image, features scaled to length 1
    nearest_<network>_val   the same of held-out images: what images are like that are no copies
    copied_<network>        share of samples that lie nearer than all but AS_NEAR of the held-out images
    <distance>_train, _val  each distance, to held-out images and to as many training images: few images make a
                            Frechet distance higher, equally many equally so

    and a grid of NEIGHBOURS + 2 columns, uint8: a sample, a gap, its nearest training images.
    """
    metrics.to(model.device)
    name = metrics.features.name
    train, held_out = data.images("train", most), data.val.select(slice(MOST_SAMPLES))
    samples = torch.cat(list(model.sample_uint8(min(num_images, MOST_SAMPLES), seed, batch_size))).cpu()
    asked = torch.cat([samples, held_out[:]])
    # Training images are mirrored by chance: a mirrored copy is a copy.
    versions = [asked, asked.flip(-1)] if data.horizontal_flip else [asked]
    queries = torch.stack([features_of(metrics, version.split(batch_size)) for version in versions])

    # As many training images as held-out ones, evenly spread.
    spread = torch.linspace(0, len(train) - 1, min(len(held_out), len(train))).round().long()
    kept: list[Tensor] = []

    def training_features() -> Iterator[Tensor]:
        position = 0
        for images in track(train.batches(batch_size), len(train), f"nearest of {len(train):,} training images"):
            features = features_of(metrics, [images])
            kept.append(features[spread[(spread >= position) & (spread < position + len(images))] - position])
            yield features
            position += len(images)

    # Directions: by plain distance a dark image, whose features are short, is near to everything unusual.
    distances, positions = nearest(normalize(queries, dim=-1), map(normalize, training_features()), NEIGHBOURS)
    to_sample, to_held_out = distances[: len(samples), 0], distances[len(samples) :, 0]
    values = {f"nearest_{name}": float(to_sample.median())}
    if len(held_out) > 1:
        values[f"nearest_{name}_val"] = float(to_held_out.median())
        near = to_held_out.quantile(AS_NEAR)
        values[f"copied_{name}"] = float((to_sample < near).float().mean())
        sampled, val = (statistics(metrics, part) for part in queries[0].split([len(samples), len(held_out)]))
        for suffix, real in {"train": statistics(metrics, torch.cat(kept)), "val": val}.items():
            values |= {f"{distance}_{suffix}": value for distance, value in metrics.compare(real, sampled).items()}

    blank = torch.full_like(samples[:1], 255)
    grid = [
        torch.cat([samples[row : row + 1], blank, train[positions[row].cpu()]])
        for row in range(min(rows, len(samples)))
    ]
    return values, torch.cat(grid)


def features_of(metrics: FeatureMetrics, batches: Iterable[Tensor]) -> Tensor:
    """uint8 images -> (N, D), float64, for distances down to 0."""
    features = [metrics.features(images.to(metrics.device)) for images in batches]
    return torch.cat(features).to(metrics.statistics_device).double()


def statistics(metrics: FeatureMetrics, features: Tensor) -> dict[str, Statistics]:
    """As metrics.summarize gives them of images: (N, D)."""
    gathered = {}
    for key, distance in metrics.gathered.items():
        metric = distance.statistics(features.shape[1]).to(metrics.statistics_device)
        metric.update(features)
        gathered[key] = tuple(part.cpu() for part in metric.compute())
    return gathered
