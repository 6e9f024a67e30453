"""Fixtures of several tests: the sample archives, and a loopback file server that fails as told."""

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# Tests run beside others: with a thread each nothing waits for a core that is taken. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a suite under nohup would have its runs ignore it

SHARED_CATS = Path(__file__).parents[2] / "shared" / "cats"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests decode for this session only; weights stay where the user has them."""
    users = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    os.environ.setdefault("TORCH_HOME", f"{users}/torch")
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield
    shutil.rmtree(cache)


@pytest.fixture(scope="session")
def shared_cats() -> Path:
    """The folder of sample archives beside the repository."""
    if not SHARED_CATS.is_dir():
        pytest.skip(f"the sample archives are not at {SHARED_CATS}")
    return SHARED_CATS


@dataclass
class FileServer:
    """Serves one content under every path, with the faults that are set on it."""

    content: bytes = b""
    ranges: bool = True
    cut_after: int | None = None  # bytes of the body; then the connection is closed, once
    stall_after: int | None = None  # bytes of the body; then nothing more comes, once
    statuses: list[int] = field(default_factory=list)  # answered to the next requests, without a body
    requests: list[dict[str, str]] = field(default_factory=list)  # headers of every request so far
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        headers = dict(handler.headers)
        self.requests.append(headers)
        handler.close_connection = True
        if self.statuses:
            handler.send_error(self.statuses.pop(0))
            return
        start = 0
        if self.ranges and "Range" in headers:
            start = int(headers["Range"].removeprefix("bytes=").removesuffix("-"))
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body)))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.end_headers()

        cut, self.cut_after = self.cut_after, None
        stall, self.stall_after = self.stall_after, None
        handler.wfile.write(body[: stall if cut is None else cut])
        if stall is not None:
            self.released.wait(20)


@pytest.fixture
def file_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A FileServer on 127.0.0.1, closed at the end of the test."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}/file"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield served
        served.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_url(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nobody answers."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}/file"
