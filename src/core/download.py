"""Download a file once, over a network that may fail."""

import logging
import os
import ssl
import time
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
    alternatives: str = "give your own images with data=folder data.root=... or use data=drawn_cats",
    folder_option: str = "data.root=...",
    timeout_s: float = 30,
    retries: int = 4,
    backoff_s: float = 1,
) -> None:
    """Download url to path unless the file exists; other processes wait for the first one.

    Received bytes are kept beside path, and a retry or the next call continues from there: the caller compares the
    file with its digest. The wait between retries doubles, from backoff_s. Raises UserError, which names the
    alternatives, when the file can't be had, and the option that gives another folder when it can't be kept. Where
    OFFLINE is set nothing is downloaded.
    """
    if path.exists():
        return
    if os.environ.get(OFFLINE):
        raise UserError(f"{title} are not here, and nothing is downloaded ({OFFLINE} is set)")
    attempt = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f"{path.name}.lock"), f"another process is downloading {title}; waiting for it"):
            while not path.exists():
                logger.info("downloading %s from %s to %s", title, url, path)
                try:
                    _fetch(url, path, title, timeout_s)
                except NETWORK_ERRORS as error:
                    if attempt == retries or _is_permanent(error, attempt):
                        raise UserError(f"can't download {title} from {url} ({error}); {alternatives}") from error
                    wait_s = backoff_s * 2**attempt
                    logger.warning("%s: %s; trying again in %g s", url, error, wait_s)
                    time.sleep(wait_s)
                    attempt += 1
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
    """Send one request, write its body to the part (at its end if the server can continue), and rename it."""
    if path.is_symlink():
        raise FileExistsError(f"{path} is a link to nothing")
    part = path.with_name(f".{path.name}.cat-faces-part")  # a name that no other program gives
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "cat-faces"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout_s)
    except HTTPError as error:
        if error.code == 416:  # the part is as long as the file, or longer
            part.unlink()
        raise
    with response:
        start = start if response.status == 206 else 0
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
