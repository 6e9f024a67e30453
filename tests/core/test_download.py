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
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert server.requests == []


@pytest.mark.parametrize("name", ["file", "file.part"])
def test_what_another_program_has_put_there_stays(name: str, server: FileServer, tmp_path: Path) -> None:
    """A link to a disk that is not plugged in; a browser's download."""
    path = tmp_path / name
    if name == "file":
        path.symlink_to("/nowhere/file")
    else:
        path.write_bytes(b"half of something")
    with pytest.raises(UserError, match=r"another program's; make room there or give another folder"):
        fetch(server.url, tmp_path / "file")
    assert str(path.readlink()) == "/nowhere/file" if name == "file" else path.read_bytes() == b"half of something"


@pytest.mark.parametrize("was_there", [True, False])
def test_only_a_file_of_this_download_is_deleted_where_the_check_fails(
    was_there: bool, server: FileServer, tmp_path: Path
) -> None:
    def check(path: Path) -> None:
        raise UserError("wrong")

    path = tmp_path / "file"
    if was_there:
        path.write_bytes(b"mine")
    with pytest.raises(UserError, match="wrong"):
        fetch(server.url, path, check=check)
    assert path.exists() == was_there
    assert not was_there or path.read_bytes() == b"mine"


def test_cut_connection_is_resumed_where_it_was_cut(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = 100_000
    fetch(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert "Range" not in server.requests[0]
    assert server.requests[1]["Range"] == "bytes=100000-"
    assert server.requests[1]["If-Range"] == '"one"'


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


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', None])
def test_server_without_ranges_starts_again(server: FileServer, tmp_path: Path, etag: str | None) -> None:
    server.etag, server.ranges, server.cut_after = etag, False, 100_000
    fetch(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert ("Range" in server.requests[1]) == (etag == '"one"')


def leave_part(server: FileServer, path: Path) -> None:
    server.cut_after = 100_000
    with pytest.raises(UserError, match="cut"):
        fetch(server.url, path, retries=0)


def test_changed_file_is_not_glued_to_the_old_part(server: FileServer, tmp_path: Path) -> None:
    leave_part(server, tmp_path / "file")
    server.content, server.etag = CONTENT[::-1], '"two"'
    fetch(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


def test_changed_file_is_not_glued_by_a_server_that_ignores_if_range(server: FileServer, tmp_path: Path) -> None:
    leave_part(server, tmp_path / "file")
    server.content, server.etag, server.if_range = CONTENT[::-1], '"two"', False
    fetch(server.url, tmp_path / "file")
    assert server.requests[1]["Range"] == "bytes=100000-"
    assert "Range" not in server.requests[2]
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


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


def test_check_is_called_on_new_and_kept_files(server: FileServer, tmp_path: Path) -> None:
    checked: list[Path] = []
    for _ in range(2):
        fetch(server.url, tmp_path / "file", check=checked.append)
    assert checked == [tmp_path / "file"] * 2


def test_full_disk_and_folders_in_the_way_are_one_sentence(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").symlink_to("/dev/full")
    (tmp_path / "file.part.validator").touch()
    with pytest.raises(UserError, match=r"can't keep test cats in .*: No space left on device; .*data\.root="):
        fetch(server.url, tmp_path / "file")
    (tmp_path / "in the way").write_text("")
    with pytest.raises(UserError, match=r"can't keep test cats in .*in the way"):
        fetch(server.url, tmp_path / "in the way" / "file")


def test_a_file_in_a_read_only_folder_is_used(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    fetch(server.url, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


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
