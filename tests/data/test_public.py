import errno
import hashlib
import io
import logging
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from PIL import Image

from src.core.errors import UserError
from src.data.archives import image_files
from src.data.cache.builder import ImageCache
from src.data.dataset import ImageDataset
from src.data.public import AFHQCat, CatFaces, PublicSet, lines_digest
from tests.conftest import FileServer
from tests.data.test_duplicates import clean_by_brute_force

Set = TypeVar("Set", bound=PublicSet)


def small_archive(seed: int = 0) -> bytes:
    """Three images in the layout of the cat faces, out of order."""
    packed = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for number, image in zip((10, 0, 2), pixels, strict=True):
            content = io.BytesIO()
            Image.fromarray(image).save(content, "PNG")
            info = tarfile.TarInfo(f"cat-dataset-123/cats/cat_{number}.png")
            info.size = content.tell()
            tar.addfile(info, io.BytesIO(content.getvalue()))
    return packed.getvalue()


def digest_by_sha256sum(archive: Path, inside: str, folder: Path) -> str:
    """The published recipe, by the tools that it names."""
    shutil.unpack_archive(archive, folder)
    command = "LC_ALL=C sha256sum * | sha256sum"
    output = subprocess.run(command, shell=True, cwd=folder / inside, capture_output=True, check=True).stdout
    return output.decode().split()[0]


def served(public: Set, url: str, digest: str = "") -> Set:
    """Return a set as if it were published at another address and with other contents."""
    public.url, public.digest = url, digest or public.digest
    return public


@pytest.fixture
def set_of_three(file_server: FileServer, tmp_path: Path) -> CatFaces:
    file_server.content = small_archive()
    (tmp_path / "truth.tar.gz").write_bytes(file_server.content)
    digest = digest_by_sha256sum(tmp_path / "truth.tar.gz", "cat-dataset-123/cats", tmp_path / "truth")
    return served(CatFaces(tmp_path / "cache", clean=False), file_server.url, digest)


def test_set_is_downloaded_once_checked_and_read_in_order(set_of_three: CatFaces, file_server: FileServer) -> None:
    first = set_of_three.load(64)
    again = set_of_three.load(64)
    assert first.names == ["cat_0.png", "cat_2.png", "cat_10.png"]
    assert torch.equal(first[:], again[:])
    assert len(file_server.requests) == 1


def test_an_archive_of_other_contents_is_told_and_stays_where_somebody_put_it(
    set_of_three: CatFaces, file_server: FileServer
) -> None:
    set_of_three.load(64)
    other = small_archive(seed=1)
    set_of_three.root.write_bytes(other)
    for _ in range(2):
        with pytest.raises(UserError, match=f"not the published set.*run again without {set_of_three.root}"):
            set_of_three.load(64)
    assert set_of_three.root.read_bytes() == other
    set_of_three.root.unlink()
    assert len(set_of_three.load(64)) == 3
    assert len(file_server.requests) == 2


def test_wrong_contents_are_told_and_set_aside(set_of_three: CatFaces, file_server: FileServer) -> None:
    right = file_server.content
    file_server.content = small_archive(seed=1)
    with pytest.raises(UserError) as caught:
        set_of_three.load(64)
    for part in ("cat faces 64x64", f"expected {set_of_three.digest}", "found ", "data=folder", "data=drawn_cats"):
        assert part in str(caught.value)
    assert not set_of_three.root.exists()
    file_server.content = right
    assert len(set_of_three.load(64).names) == 3


def test_a_web_page_in_place_of_the_archive_is_told(file_server: FileServer, tmp_path: Path) -> None:
    file_server.content = b"<html>log in</html>"
    afhq = served(AFHQCat(tmp_path), file_server.url)
    with pytest.raises(UserError, match=r"AFHQ cats .* is not the published set.*not a zip file"):
        afhq.load(64)
    assert not afhq.root.exists()


def test_an_archive_without_the_folder_of_the_set_is_told(file_server: FileServer, tmp_path: Path) -> None:
    file_server.content = small_archive()
    cat_faces = served(CatFaces(tmp_path, clean=False), file_server.url)
    cat_faces.subfolder = "dogs"
    with pytest.raises(UserError, match=r"is not the published set.*no images below a folder dogs"):
        cat_faces.load(64)
    assert not cat_faces.root.exists()


def test_a_download_stays_where_the_decoded_images_can_not_be_kept(set_of_three: CatFaces, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't keep the decoded images"):
        set_of_three.load(64, tmp_path / "file" / "cache")
    assert set_of_three.root.exists()


def test_no_network_names_the_set_and_both_alternatives(tmp_path: Path, closed_url: str) -> None:
    with pytest.raises(UserError, match=f"cat faces 64x64 from {closed_url} .*data=folder .*data=drawn_cats"):
        served(CatFaces(tmp_path), closed_url).load(64)


def test_licence_is_logged_at_the_first_download(set_of_three: CatFaces, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    set_of_three.load(64)
    assert "licence mixed or unclear" in caplog.text
    caplog.clear()
    set_of_three.load(64)
    assert caplog.text == ""


def test_default_root_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert AFHQCat().root == tmp_path / "cat-faces" / "afhq.zip"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert CatFaces().root.parent == Path.home() / ".cache" / "cat-faces"


def test_cat_faces_sample_as_published(shared_cats: Path, file_server: FileServer, tmp_path: Path) -> None:
    sample = shared_cats / "cat-faces-raw-sample.tar.gz"
    file_server.content = sample.read_bytes()
    file_server.cut_after = 5_000_000
    (top,) = {file.name.split("/")[0] for file in image_files(sample)}
    digest = digest_by_sha256sum(sample, f"{top}/cats", tmp_path / "truth")
    images = served(CatFaces(tmp_path / "cache", clean=False), file_server.url, digest).load(64)
    assert images[:].shape == (1501, 3, 64, 64)
    assert file_server.requests[1]["Range"] == "bytes=5000000-"
    for index in (0, 1500):
        truth = np.asarray(Image.open(tmp_path / "truth" / top / "cats" / images.names[index]))
        assert np.array_equal(images[:][index].permute(1, 2, 0), truth)


def test_clean_images_are_the_smoothest_of_each_group_whatever_size_is_asked_for(
    shared_cats: Path, file_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = shared_cats / "cat-faces-raw-sample.tar.gz"
    file_server.content = sample.read_bytes()
    listing = sorted((file.name, hashlib.sha256(file.read()).hexdigest()) for file in image_files(sample, "cats"))
    digest = lines_digest(f"{sha256}  {name}" for name, sha256 in listing)
    raw = served(CatFaces(tmp_path, clean=False), file_server.url, digest).load(64)
    images = raw[:].numpy()
    expected = clean_by_brute_force(images)
    clean = served(CatFaces(tmp_path), file_server.url, digest)
    for image_size in (64, 32):
        assert clean.load(image_size).names == [raw.names[index] for index in expected]
    assert len(expected) == 458

    # Where the decoded images can't be kept, they are selected once all the same.
    find_or_build = ImageCache.find_or_build

    def elsewhere(cache: ImageCache) -> ImageDataset:
        if cache.folder.parent == tmp_path / "shared":
            raise PermissionError(errno.EACCES, "Permission denied")
        return find_or_build(cache)

    monkeypatch.setattr(ImageCache, "find_or_build", elsewhere)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert len(clean.load(64, tmp_path / "shared")) == 458


def test_a_clean_list_that_is_not_the_published_one_is_reported(
    set_of_three: CatFaces, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_of_three.clean = True
    assert len(set_of_three.load(64)) == 0  # each of the three is there only once
    assert "the clean list of 0 names is not the published one" in caplog.text
    caplog.clear()
    monkeypatch.setattr(CatFaces, "clean_digest", lines_digest([]))
    set_of_three.load(64)
    assert caplog.text == ""


def test_afhq_sample_as_published(shared_cats: Path, file_server: FileServer, tmp_path: Path) -> None:
    sample = shared_cats / "afhq-sample-512.zip"
    file_server.content = sample.read_bytes()
    digest = digest_by_sha256sum(sample, "afhq/train/cat", tmp_path / "truth")
    images = served(AFHQCat(tmp_path / "cache"), file_server.url, digest).load(64)
    assert images[:].shape == (150, 3, 64, 64)
    assert images.names[0] == "flickr_cat_000021.jpg"
    image = Image.open(tmp_path / "truth" / "afhq" / "train" / "cat" / images.names[0])
    expected = np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS))
    assert np.array_equal(images[:][0].permute(1, 2, 0), expected)
    assert (
        hashlib.sha256((tmp_path / "cache" / "afhq.zip").read_bytes()).digest()
        == hashlib.sha256(file_server.content).digest()
    )
