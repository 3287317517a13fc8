"""Where ksim keeps what it can make or fetch again."""

import os
from pathlib import Path


def folder() -> Path:
    """KSIM_CACHE_DIR, else ksim's folder in the user's cache folder."""
    if root := os.environ.get("KSIM_CACHE_DIR"):
        return Path(root)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ksim"
