"""How well copies of training images are found: `python -m benchmarks.copies --root cats.zip`.

Copies of training images, changed in ways a generator may change them, and held-out images changed alike, are looked
up as samples are by `src.evaluate neighbors=`. For each change the table shows the share found to be copies: of copies
the detection rate, of held-out images the false alarms (and the copies of a photograph that the split did not see).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.functional import gaussian_blur

from src.data.datamodule import FolderDataModule
from src.evaluation.memorization import TrainingImages
from src.metrics.features import EfficientNetLite0

Change = Callable[[Tensor], Tensor]


def noise(images: Tensor, deviation: float) -> Tensor:
    return images + deviation * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))


def shift(images: Tensor, pixels: int) -> Tensor:
    """Move images down and to the right; the border is repeated."""
    size = images.shape[-1]
    return pad(images, [pixels, 0, pixels, 0], mode="replicate")[..., :size, :size]


def tint(images: Tensor, *factors: float) -> Tensor:
    return images * torch.tensor(factors)[:, None, None]


def principal_components(training: Tensor, count: int) -> Change:
    """Return the projection of images on the first principal components of the training images."""
    flat = training.float().flatten(1)
    mean = flat.mean(dim=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        directions = torch.svd_lowrank(flat - mean, count + 20, niter=3)[2][:, :count]
    return lambda images: (((images.flatten(1) - mean) @ directions) @ directions.T + mean).view(images.shape)


def changes(training: Tensor) -> dict[str, Change]:
    """Return ways to change images, float (N, 3, S, S) in 0 to 255, by name."""
    return {
        "none": lambda images: images,
        "mirrored": lambda images: images.flip(-1),
        "blurred, sigma 1": lambda images: gaussian_blur(images, [9, 9], [1.0, 1.0]),
        "blurred, sigma 2": lambda images: gaussian_blur(images, [9, 9], [2.0, 2.0]),
        "noise, deviation 10": lambda images: noise(images, 10),
        "noise, deviation 25": lambda images: noise(images, 25),
        "shifted by 2 pixels": lambda images: shift(images, 2),
        "shifted by 4 pixels": lambda images: shift(images, 4),
        "mirrored, shifted by 3": lambda images: shift(images.flip(-1), 3),
        "tinted, 0.8 / 1 / 1.2": lambda images: tint(images, 0.8, 1.0, 1.2),
        "200 principal components": principal_components(training, 200),
        "60 principal components": principal_components(training, 60),
    }


def copied(search: TrainingImages, images: Tensor, change: Change) -> float:
    """Return the share of images, uint8, that are found to be copies after a change."""
    changed = change(images.float()).round().clamp(0, 255).to(torch.uint8)
    return float(search.nearest(changed).are_copies.double().mean())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder or archive of images")
    parser.add_argument("--images", type=int, default=300, help="training images, and held-out ones, that are changed")
    options = parser.parse_args(arguments)
    data = FolderDataModule(str(options.root), val_fraction=0.1)
    train = data.images("train")
    search = TrainingImages(train, EfficientNetLite0(), mirrored=True)
    copies = train[torch.linspace(0, len(train) - 1, min(options.images, len(train))).round().long()]
    print(f"| of {len(copies)} copies and {len(data.val[: options.images])} held-out images | copies | held-out |")
    print("|---|---|---|")
    for name, change in changes(train[:]).items():
        shares = [copied(search, images, change) for images in (copies, data.val[: options.images])]
        print(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
