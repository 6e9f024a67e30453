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
OFFLINE = "CAT_FACES_OFFLINE"  # an environment variable

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
    doubles, from backoff_s. A file that was downloaded by this call is deleted again where check raises; one that was
    there before stays, whosever it is. Raises UserError, which names the alternatives, when the file can't be had, and
    the option that gives another folder when it can't be kept. Where OFFLINE is set nothing is downloaded.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A read-only folder can hold no lock file and needs none.
        read_only = path.exists() and not os.access(path.parent, os.W_OK)
        message = f"another process is downloading {title}; waiting for it"
        with nullcontext() if read_only else locked(path.with_name(f"{path.name}.lock"), message):
            if not path.exists():
                if os.environ.get(OFFLINE):
                    raise UserError(f"{title} are not here, and nothing is downloaded ({OFFLINE} is set)")
                logger.info("downloading %s from %s to %s", title, url, path)
            attempt, was_there = 0, os.path.lexists(path)
            while not path.exists():
                try:
                    _fetch(url, path, title, timeout_s)
                except NETWORK_ERRORS as error:
                    if attempt == retries or _is_permanent(error, attempt):
                        raise UserError(f"can't download {title} from {url} ({error}); {alternatives}") from error
                    wait_s = backoff_s * 2**attempt
                    logger.warning("%s: %s; trying again in %g s", url, error, wait_s)
                    time.sleep(wait_s)
                    attempt += 1
            try:
                if check:
                    check(path)
            except UserError:
                if not was_there:
                    path.unlink()
                raise
    except OSError as error:
        raise UserError(
            f"can't keep {title} in {path.parent}: {error.strerror or error}; make room there or give another folder "
            f"with {folder_option}"
        ) from error


def _is_permanent(error: Exception, attempt: int) -> bool:
    """Tell whether no retry helps: the file does not exist, or no connection could ever be made."""
    if isinstance(error, HTTPError):
        return error.code < 500 and error.code not in (408, 416, 429)
    return attempt == 0 and isinstance(error, URLError)


def _fetch(url: str, path: Path, title: str, timeout_s: float) -> None:
    """Send one request, write its body to the part (at its end if the server has the same version), and rename it."""
    part, version_file = (path.with_name(f"{path.name}.part{suffix}") for suffix in ("", ".validator"))
    headers = {"User-Agent": "cat-faces"}
    if path.is_symlink() or (os.path.lexists(part) and not version_file.exists()):
        raise FileExistsError(f"{path} is a link, or {part} another program's")
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
    os.replace(part, path)
    version_file.unlink(missing_ok=True)
