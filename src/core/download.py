"""Download a file once, over a network that may fail."""

import logging
import os
import ssl
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from src.core.errors import UserError
from src.core.files import locked
from src.core.progress import track

logger = logging.getLogger(__name__)

NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def download(
    url: str,
    path: Path,
    title: str,
    check: Callable[[Path], None] | None = None,
    alternatives: str = "give your own images with data=folder data.root=... or use data=drawn_cats",
    folder_option: str = "data.root=...",
    timeout_s: float = 30,
    retries: int = 4,
    backoff_s: float = 1,
) -> None:
    """Download url to path unless the file exists, then call check(path); other processes wait for the first one.

    Received bytes are kept in path.part, and a retry or the next call continues from there. The wait between retries
    doubles, from backoff_s. Raises UserError, which names the alternatives, when the file can't be had, and the option
    that gives another folder when it can't be kept.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A read-only folder can hold no lock file and needs none.
        read_only = path.exists() and not os.access(path.parent, os.W_OK)
        message = f"another process is downloading {title}; waiting for it"
        with nullcontext() if read_only else locked(path.with_name(f"{path.name}.lock"), message):
            if not path.exists():
                logger.info("downloading %s from %s to %s", title, url, path)
                _fetch_with_retries(url, path, title, alternatives, timeout_s, retries, backoff_s)
            if check:
                check(path)
    except OSError as error:
        raise UserError(
            f"can't keep {title} in {path.parent}: {error.strerror or error}; make room there or give another folder "
            f"with {folder_option}"
        ) from error


def _fetch_with_retries(
    url: str, path: Path, title: str, alternatives: str, timeout_s: float, retries: int, backoff_s: float
) -> None:
    part, version_file = (path.with_name(f"{path.name}.part{suffix}") for suffix in ("", ".validator"))
    for attempt in range(retries + 1):
        try:
            _fetch(url, part, version_file, title, timeout_s)
            break
        except NETWORK_ERRORS as error:
            if attempt == retries or not _is_temporary(error, attempt):
                raise UserError(f"can't download {title} from {url} ({error}); {alternatives}") from error
            wait_s = backoff_s * 2**attempt
            logger.warning("%s: %s; trying again in %g s", url, error, wait_s)
            time.sleep(wait_s)
    os.replace(part, path)
    version_file.unlink(missing_ok=True)


def _is_temporary(error: Exception, attempt: int) -> bool:
    """Tell whether a retry may help: not if the file does not exist, nor if no connection could ever be made."""
    if isinstance(error, HTTPError):
        return error.code >= 500 or error.code in (408, 416, 429)
    return attempt > 0 or not isinstance(error, URLError)


def _fetch(url: str, part: Path, version_file: Path, title: str, timeout_s: float) -> None:
    """Send one request and write its body to the part, at its end if the server still has the same version."""
    headers = {"User-Agent": "cat-faces"}
    version = version_file.read_text() if part.exists() and version_file.exists() else ""
    start = part.stat().st_size if version else 0
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout_s)
    except HTTPError as error:
        if error.code == 416:  # the part is longer than the file
            part.unlink()
        raise
    with response:
        # A strong ETag or the date is what If-Range can compare.
        etag = response.headers.get("ETag", "")
        new_version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        if response.status == 206:
            continues = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            if not continues or new_version not in ("", version):
                part.unlink()
                raise ConnectionError("the server's file has changed")
        else:
            start = 0
            version_file.write_text(new_version)
        length = response.headers.get("Content-Length")
        chunks = iter(partial(response.read1, 1 << 16), b"")
        megabytes = int(length) / 1e6 if length else None
        with part.open("ab" if start else "wb") as file:
            for chunk in track(chunks, megabytes, f"downloading {title} (MB)", lambda chunk: len(chunk) / 1e6):
                file.write(chunk)
    received = part.stat().st_size
    if length and received != start + int(length):
        raise ConnectionError(f"the connection was cut after {received} of {start + int(length)} bytes")
