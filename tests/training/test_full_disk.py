"""A disk of 8 MB that is full: at the beginning of a run, and of one that goes on."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.models.checkpoint.loading import read_checkpoint
from tests.helpers.commands import command, succeeded, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, free: int) -> None:
    """Leave so many bytes, in whole pages."""
    file = disk / "fill"
    file.unlink(missing_ok=True)
    left = os.statvfs(disk)
    file.write_bytes(bytes(left.f_bavail * left.f_frsize - free))


def options(disk: Path, max_images: int) -> list[str]:
    return tiny("vae", "model.latent_dim=8", "metrics=none", f"run_dir={disk}/run", f"max_images={max_images}")


def refusal(*arguments: str) -> str:
    """The sentence of a command that ends with status 2, without a traceback."""
    result = command("src.train", *arguments)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def test_full_disk_at_the_beginning_is_one_sentence(disk: Path) -> None:
    for free in (0, 4096, 8192, 20480, 131072):
        subprocess.run(["rm", "-rf", f"{disk}/run"], check=True)
        fill(disk, free)
        sentence = refusal(*options(disk, 64))
        assert sentence == f"error: can't write {disk}/run: No space left on device; there is no checkpoint yet", free


def test_full_disk_where_a_run_goes_on_names_the_last_valid_checkpoint(disk: Path) -> None:
    succeeded("src.train", *options(disk, 64))
    newest = disk / "run" / "checkpoints" / "images_000000064.safetensors"
    for free in (0, 4096, 40960):
        fill(disk, free)
        sentence = refusal(*options(disk, 128), "resume=last")
        assert sentence.endswith(f"No space left on device; the last valid checkpoint is {newest}"), free
        assert read_checkpoint(newest)["images_seen"] == 64
    (disk / "fill").unlink()
    succeeded("src.train", *options(disk, 128), "resume=last")
