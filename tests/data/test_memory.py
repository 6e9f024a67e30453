"""Memory stays flat: what a process that trains on many images needs of it, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from pathlib import Path

import numpy as np

from src.data.archives import ImageFile
from src.data.cache.builder import CachedSource
from src.data.cache.manifest import DecodedImage
from src.data.folder import Folder
from tests.helpers.tiny import ImageDataModule, ScriptedModel, train

COUNT, SIZE = 100_000, 128


class Patterns(CachedSource):
    title = identity = description = "patterns"
    decoding: dict = {}

    def options(self, image_size): return {"image_size": image_size}

    def files(self): return [ImageFile(f"{index:06d}", bytes) for index in range(COUNT)]

    def decode(self, files, image_size):
        rng = np.random.default_rng(int(files[0].name))
        pixels = rng.integers(0, 256, (len(files), 3, SIZE, SIZE), dtype=np.uint8)
        return [DecodedImage(file.name, "00" * 32, image, (SIZE, SIZE)) for file, image in zip(files, pixels)]

    columns = Folder.columns


class Model(ScriptedModel):
    def training_step(self, images, batch_idx):
        assert images.shape[1:] == (3, SIZE, SIZE)
        return super().training_step(images, batch_idx)


data = ImageDataModule(Patterns(), image_size=SIZE, batch_size=64, cache_dir=sys.argv[1])
model = Model()
train(model, data, COUNT)
for reference in ("train", "val"):
    assert sum(len(batch) for batch in data.share(reference, 64)) == len(data.images(reference))
status = Path("/proc/self/status").read_text()
print(model.images_seen, next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak of a process's memory")
def test_a_hundred_thousand_images_of_128_pixels_fit_into_a_gigabyte_and_a_half(tmp_path: Path) -> None:
    """They are 4.6 GiB; decoded, grouped, cached, trained on and read for metrics in one process."""
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    images_seen, kilobytes = run.stdout.split()[-2:]
    assert int(images_seen) >= 100_000
    assert int(kilobytes) / 2**20 < 1.5
