import hashlib
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from src.core.download import download
from src.core.errors import UserError
from src.metrics.features import downloaded_inception_weights
from tests.conftest import FileServer

CONTENT = random.Random(0).randbytes(300_000)
fetch = partial(download, title="test cats", timeout_s=0.3, retries=2, backoff_s=0.01)


@pytest.fixture
def server(file_server: FileServer) -> FileServer:
    file_server.content = CONTENT
    return file_server


def test_file_arrives_whole_and_alone(server: FileServer, tmp_path: Path) -> None:
    fetch(server.url, tmp_path / "new" / "file.zip")
    assert (tmp_path / "new" / "file.zip").read_bytes() == CONTENT
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["file.zip", "file.zip.lock"]


def test_file_that_is_there_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    fetch(server.url, tmp_path / "file")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]  # a read-only folder could hold no lock
    assert server.requests == []


def test_a_link_to_nothing_stays(server: FileServer, tmp_path: Path) -> None:
    """Such as to a disk that is not plugged in."""
    (tmp_path / "file").symlink_to("/nowhere/file")
    with pytest.raises(UserError, match=r"a link to nothing; make room there or give another folder"):
        fetch(server.url, tmp_path / "file")
    assert str((tmp_path / "file").readlink()) == "/nowhere/file"


def test_another_programs_half_download_stays(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"half of something")
    fetch(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert (tmp_path / "file.part").read_bytes() == b"half of something"


def test_cut_connection_is_resumed_where_it_was_cut(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = 100_000
    fetch(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert "Range" not in server.requests[0]
    assert server.requests[1]["Range"] == "bytes=100000-"


def test_stalled_server_is_left_and_resumed(server: FileServer, tmp_path: Path) -> None:
    server.stall_after = 100_000
    started = time.monotonic()
    fetch(server.url, tmp_path / "file")
    assert time.monotonic() - started < 5
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=100000-"


def test_next_call_resumes_what_the_last_one_left(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = 100_000
    with pytest.raises(UserError, match="cut after 100000 of 300000 bytes"):
        fetch(server.url, tmp_path / "file", retries=0)
    assert not (tmp_path / "file").exists()
    fetch(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=100000-"


def test_server_without_ranges_starts_again(server: FileServer, tmp_path: Path) -> None:
    server.ranges, server.cut_after = False, 100_000
    fetch(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=100000-"


def leave_part(server: FileServer, path: Path) -> None:
    server.cut_after = 100_000
    with pytest.raises(UserError, match="cut"):
        fetch(server.url, path, retries=0)


def test_part_longer_than_the_file_is_dropped(server: FileServer, tmp_path: Path) -> None:
    leave_part(server, tmp_path / "file")
    server.statuses = [416]
    fetch(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert "Range" not in server.requests[2]


def test_busy_server_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    fetch(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_server_that_stays_busy_is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [500] * 10
    with pytest.raises(UserError, match="500"):
        fetch(server.url, tmp_path / "file")
    assert len(server.requests) == 3


def test_missing_file_is_not_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [404] * 10
    with pytest.raises(UserError, match="404"):
        fetch(server.url, tmp_path / "file")
    assert len(server.requests) == 1


def test_no_network_says_what_else_to_do(tmp_path: Path, closed_url: str) -> None:
    with pytest.raises(UserError) as caught:
        fetch(closed_url, tmp_path / "file", backoff_s=60)
    for part in ("test cats", closed_url, "refused", "data=folder data.root=", "data=drawn_cats"):
        assert part in str(caught.value)


def test_two_processes_download_once(server: FileServer, tmp_path: Path) -> None:
    server.stall_after = 100_000  # Holds the first while the second arrives.
    code = f"""
from pathlib import Path
from src.core.download import download
download({server.url!r}, Path({str(tmp_path / "file")!r}), "test cats", timeout_s=1.5, backoff_s=0)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [headers.get("Range") for headers in server.requests] == [None, "bytes=100000-"]


def test_full_disk_and_folders_in_the_way_are_one_sentence(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".file.cat-faces-part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"can't keep test cats in .*: No space left on device; .*data\.root="):
        fetch(server.url, tmp_path / "file")
    (tmp_path / "in the way").write_text("")
    with pytest.raises(UserError, match=r"can't keep test cats in .*in the way"):
        fetch(server.url, tmp_path / "in the way" / "file")


@pytest.mark.parametrize("right", [True, False])
def test_inception_weights_are_checked_by_the_digest_in_their_name(
    right: bool, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = hashlib.sha256(CONTENT).hexdigest()[:8] if right else "01234567"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("src.metrics.features.URL_INCEPTION_V3", f"{server.url}/weights-{start}.pth")
    path = tmp_path / "hub" / "checkpoints" / f"weights-{start}.pth"
    if right:
        assert [downloaded_inception_weights() for _ in range(2)] == [path, path]
        assert path.read_bytes() == CONTENT
        assert len(server.requests) == 1
    else:
        with pytest.raises(UserError, match=r"SHA-256 of .* is .* instead of 01234567.*metrics\.weights_path="):
            downloaded_inception_weights()
        assert not path.exists()
