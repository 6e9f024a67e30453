"""A checkpoint's digest, inside the file: copied anywhere it can still be checked.

torch.save writes a zip archive. The digest is the archive's comment, which zip readers pass over: its length in the
last two bytes, then `sha256:` and the digest of everything before those two bytes.
"""

import hashlib
import io
import struct
from pathlib import Path

LENGTH = struct.Struct("<H")
PREFIX = b"sha256:"
COMMENT_SIZE = len(PREFIX) + 2 * hashlib.sha256().digest_size
CHUNK = 1 << 20


def seal(archive: io.BytesIO) -> None:
    """Adds the digest to a zip archive without a comment."""
    content = archive.getbuffer()
    if bytes(content[-LENGTH.size :]) != LENGTH.pack(0):
        raise ValueError("the archive has a comment already")
    comment = PREFIX + hashlib.sha256(content[: -LENGTH.size]).hexdigest().encode()
    content.release()
    archive.seek(-LENGTH.size, io.SEEK_END)
    archive.write(LENGTH.pack(COMMENT_SIZE) + comment)


def is_damaged(path: Path) -> bool:
    """Whether a file's content is not what its digest says; a file without one is taken as it is."""
    with path.open("rb") as file:
        left = file.seek(0, io.SEEK_END) - LENGTH.size - COMMENT_SIZE
        if left < 0:
            return False
        file.seek(left + LENGTH.size)
        comment = file.read()
        if not comment.startswith(PREFIX):
            return False
        digest = hashlib.sha256()
        file.seek(0)
        while left:
            chunk = file.read(min(CHUNK, left))
            digest.update(chunk)
            left -= len(chunk)
    return comment != PREFIX + digest.hexdigest().encode()
