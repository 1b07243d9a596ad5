"""Where this package keeps files of a user's: downloads, and plans that were measured on this machine."""

from __future__ import annotations

import os

import platformdirs


def default_cache_dir() -> str:
    """Where downloads go by default: GLIDE_FAST_CACHE, else this platform's user cache directory."""
    return os.environ.get("GLIDE_FAST_CACHE") or platformdirs.user_cache_dir("glide_fast", appauthor=False)
