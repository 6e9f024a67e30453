"""Where what can be made or fetched again is kept, for all runs of a user."""

import os
from pathlib import Path


def user_cache() -> Path:
    """`cat-faces` in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cat-faces"
