"""Two users of the machine and one cache, with the usual umask."""

import io
import multiprocessing
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.dataset import ImageDataset
from src.data.folder import Folder
from tests.helpers.building import pixels_digest

pytestmark = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0 or not shutil.which("useradd"),
    reason="only root can make users and become them",
)
NAMES = ("catfaces-alice", "catfaces-bob")


@pytest.fixture(scope="module")
def users() -> Iterator[list[pwd.struct_passwd]]:
    for name in NAMES:
        subprocess.run(["userdel", name], check=False, capture_output=True)  # left by a killed test
        subprocess.run(["useradd", "--no-create-home", name], check=True, capture_output=True)
    yield [pwd.getpwnam(name) for name in NAMES]
    for name in NAMES:
        subprocess.run(["userdel", name], check=True, capture_output=True)


@pytest.fixture
def place(users: list[pwd.struct_passwd]) -> Iterator[Path]:
    """A folder that everybody can enter, with a home for each user, a shared folder of Alice's, and images."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        for folder, owner in (("alice", users[0]), ("bob", users[1]), ("shared", users[0])):
            (place / folder).mkdir(mode=0o755)
            os.chown(place / folder, owner.pw_uid, owner.pw_gid)
        (place / "cats").mkdir(mode=0o755)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 42, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "cats" / f"cat_{number}.png")
        yield place


def load_as(user: pwd.struct_passwd, place: Path, size: int, umask: int = 0o022) -> tuple[str, str]:
    """Load the images as a user; return the cache's folder, and what was said."""
    Image.init()  # Pillow's plugins, which the user might not be allowed to read
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def load() -> None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        os.umask(umask)
        os.environ["HOME"] = str(place / user.pw_name.removeprefix("catfaces-"))
        os.environ.pop("XDG_CACHE_HOME", None)
        sys.stderr = io.StringIO()
        images: ImageDataset = Folder(place / "cats").load(size, place / "shared")
        assert images.manifest is not None
        sender.send((str(images.manifest.parent), pixels_digest(images), sys.stderr.getvalue()))

    process = context.Process(target=load)
    process.start()
    sender.close()
    process.join(60)
    assert process.exitcode == 0
    folder, digest, said = receiver.recv()
    with tempfile.TemporaryDirectory() as fresh:
        assert digest == pixels_digest(Folder(place / "cats").load(size, fresh))
    return folder, said


def test_the_second_user_reads_what_is_there_and_builds_the_rest_in_a_cache_of_his_own(
    users: list[pwd.struct_passwd], place: Path
) -> None:
    alice, bob = users
    built, _ = load_as(alice, place, 32)
    assert Path(built).parent == place / "shared"
    assert load_as(bob, place, 32) == (built, "")
    own, said = load_as(bob, place, 16)
    assert Path(own).parent == place / "bob" / ".cache" / "cat-faces" / "images"
    assert "shared is not yours to write to" in said
    # Alice builds the same later; from then on Bob takes the shared one, as it comes first.
    shared, _ = load_as(alice, place, 16)
    assert load_as(bob, place, 16) == (shared, "")


def test_what_nobody_else_may_read_is_built_in_a_cache_of_his_own(users: list[pwd.struct_passwd], place: Path) -> None:
    alice, bob = users
    load_as(alice, place, 32, umask=0o077)
    own, _ = load_as(bob, place, 32)
    assert Path(own).parent == place / "bob" / ".cache" / "cat-faces" / "images"


def test_in_a_folder_open_to_both_locks_of_another_user_are_not_in_the_way(
    users: list[pwd.struct_passwd], place: Path
) -> None:
    alice, bob = users
    (place / "shared").chmod(0o1777)
    load_as(alice, place, 32)
    own, said = load_as(bob, place, 16)  # the folder of the locks is Alice's
    assert Path(own).is_relative_to(place / "bob")
    assert "shared is not yours to write to" in said
