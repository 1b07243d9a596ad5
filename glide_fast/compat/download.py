"""Stands for ``glide_text2im.download``.

Downloads go to this user's cache directory (or GLIDE_FAST_CACHE), not to ``glide_model_cache`` in the current directory.
"""

from __future__ import annotations

from glide_fast.checkpoints.download import MODEL_PATHS, default_cache_dir, fetch_file_cached, load_checkpoint

__all__ = ["MODEL_PATHS", "default_cache_dir", "fetch_file_cached", "load_checkpoint"]
