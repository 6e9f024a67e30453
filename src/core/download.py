"""Fetches one file, once, over a network that may fail."""

import logging
import os
import ssl
import time
from collections.abc import Callable
from contextlib import nullcontext
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from src.core.errors import UserError
from src.core.files import locked

logger = logging.getLogger(__name__)

NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def download(
    url: str,
    path: Path,
    title: str,
    check: Callable[[Path], None] | None = None,
    timeout_s: float = 30,
    retries: int = 4,
    backoff_s: float = 1,
) -> None:
    """Fetches url to path unless it is there, then calls check(path); of several processes one does, the others wait.

    What arrived stays in path.part; a retry or the next call goes on from there. The wait between retries doubles from
    backoff_s. UserError, saying what else the user can do, when the file can't be had.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Where nobody may write, nobody fetches.
        read_only = path.exists() and not os.access(path.parent, os.W_OK)
        message = f"another process is fetching {title}; waiting for it"
        with nullcontext() if read_only else locked(path.with_name(f"{path.name}.lock"), message):
            if not path.exists():
                logger.info("downloading %s from %s to %s", title, url, path)
                _fetch_patiently(url, path, title, timeout_s, retries, backoff_s)
            if check:
                check(path)
    except OSError as error:
        raise UserError(
            f"can't keep {title} in {path.parent}: {error.strerror or error}; make room there or give another folder "
            "with data.root=..."
        ) from error


def _fetch_patiently(url: str, path: Path, title: str, timeout_s: float, retries: int, backoff_s: float) -> None:
    part = path.with_name(f"{path.name}.part")
    for attempt in range(retries + 1):
        try:
            _fetch(url, part, title, timeout_s)
        except NETWORK_ERRORS as error:
            if attempt == retries or not _may_pass(error, attempt):
                raise UserError(
                    f"can't download {title} from {url} ({error}); "
                    "give your own images with data=folder data.root=... or use data=drawn_cats"
                ) from error
            wait_s = backoff_s * 2**attempt
            logger.warning("%s: %s; trying again in %g s", url, error, wait_s)
            time.sleep(wait_s)
        else:
            os.replace(part, path)
            _validator_file(part).unlink(missing_ok=True)
            return


def _may_pass(error: Exception, attempt: int) -> bool:
    """Whether trying again may help: not where there is no such file, nor where no connection could be made at all."""
    if isinstance(error, HTTPError):
        return error.code >= 500 or error.code in (408, 416, 429)
    return attempt > 0 or not isinstance(error, URLError)


def _fetch(url: str, part: Path, title: str, timeout_s: float) -> None:
    """One request, for what the part still lacks if it is known to be of the same file."""
    headers = {"User-Agent": "cat-faces"}
    resumable = part.exists() and _validator_file(part).exists()
    if resumable and (start := part.stat().st_size):
        headers |= {"Range": f"bytes={start}-", "If-Range": _validator_file(part).read_text()}
    try:
        with urlopen(Request(url, headers=headers), timeout=timeout_s) as response:
            _receive(response, part, title)
    except HTTPError as error:
        if error.code == 416:  # The part is no beginning of that file.
            part.unlink()
        raise


def _receive(response: HTTPResponse, part: Path, title: str) -> None:
    """The body to the end of the part, or in its place where the server sends the whole file."""
    start = 0
    validator = _validator(response.headers)
    if response.status == 206:
        start = part.stat().st_size
        same_file = validator in (None, _validator_file(part).read_text())
        if not same_file or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise ConnectionError("the server's file has changed")
    else:
        part.write_bytes(b"")
        _validator_file(part).unlink(missing_ok=True)
        if validator:
            _validator_file(part).write_text(validator)

    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    with part.open("ab") as file, _progress() as progress:
        task = progress.add_task(title, total=total, completed=start)
        while chunk := response.read1(1 << 16):
            file.write(chunk)
            progress.advance(task, len(chunk))
    received = part.stat().st_size
    if total is not None and received != total:
        raise ConnectionError(f"the connection was cut after {received} of {total} bytes")


def _validator(headers: Message) -> str | None:
    """What If-Range can tell the file's version by: a strong ETag or the date."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _validator_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
