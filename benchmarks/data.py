"""Compare images per second of an epoch from the cache with torchvision's ImageFolder: `make bench`.

The same images, batches of 64, flips, float in [-1, 1]: src.data through the DataModule's own loader and its
conversion, in one process; ImageFolder through a DataLoader with two worker processes. They take turns; figures are
medians. Without --root the images are drawn cats saved as PNG.
"""

import argparse
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, Resize, ToTensor

from src.core.images import from_uint8, to_pillow
from src.data.datamodule import FolderDataModule
from src.data.drawn_cats.source import DrawnCats

BATCH_SIZE, IMAGE_SIZE = 64, 64


def unpack(root: str | None, folder: Path) -> None:
    """Write the images as files of one class folder, as ImageFolder needs them."""
    folder.mkdir(parents=True)
    if root:
        with zipfile.ZipFile(root) as archive:
            archive.extractall(folder)
        return
    images = DrawnCats(8_500, seed=0).load(IMAGE_SIZE, folder.parent.parent / "drawn")
    for index, name in enumerate(images.names):
        to_pillow(images[[index]][0]).save(folder / f"{name}.png")


def build(folder: str, cache_dir: Path) -> FolderDataModule:
    data = FolderDataModule(
        folder, image_size=IMAGE_SIZE, batch_size=BATCH_SIZE, val_fraction=0.0, cache_dir=str(cache_dir)
    )
    data.setup()
    return data


def epoch_from_cache(data: FolderDataModule) -> None:
    num_batches = -(-len(data.images("train")) // BATCH_SIZE)
    for batch in islice(data.train_dataloader(), num_batches):
        from_uint8(batch)


def epoch_of_image_folder(loader: DataLoader) -> None:
    for _ in loader:
        pass


def seconds(work: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="a .zip of images")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        unpack(arguments.root, Path(temporary, "images", "cats"))
        transform = Compose(
            [Resize(IMAGE_SIZE), RandomHorizontalFlip(), ToTensor(), Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
        )
        folder = ImageFolder(str(Path(temporary, "images")), transform)
        loader = DataLoader(folder, batch_size=BATCH_SIZE, shuffle=True, num_workers=2)
        times: dict[str, list[float]] = {"build": [], "cache": [], "ImageFolder": []}
        for number in range(arguments.rounds):
            cache_dir = Path(temporary, f"cache {number}")
            times["build"].append(seconds(partial(build, folder.root, cache_dir)))
            data = build(folder.root, cache_dir)
            times["ImageFolder"].append(seconds(partial(epoch_of_image_folder, loader)))
            times["cache"] += [seconds(partial(epoch_from_cache, data)) for _ in range(5)]
    medians = {name: statistics.median(values) for name, values in times.items()}
    epoch = medians["ImageFolder"]
    print(f"\n{len(folder):,} images of {IMAGE_SIZE}x{IMAGE_SIZE}; medians of {arguments.rounds} rounds")
    for name in ("ImageFolder", "cache"):
        print(f"{name:12}{len(folder) / medians[name]:10,.0f} images/s")
    print(f"from the cache: {epoch / medians['cache']:.1f} times as many a second")
    print(f"building the cache takes {medians['build'] / epoch:.2f} epochs of ImageFolder")


if __name__ == "__main__":
    main()
