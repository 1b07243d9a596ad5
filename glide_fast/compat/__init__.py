"""The official package's import paths, names and signatures, for glide_fast's models, diffusion, tokenizers and checkpoints.

Write ``glide_fast.compat`` where old code says ``glide_text2im``::

    from glide_fast.compat.model_creation import create_model_and_diffusion

or do not change the old code and call :func:`install` before it runs. Modules here hold no logic: classes and functions are the
same objects as in :mod:`glide_fast.models`, :mod:`glide_fast.diffusion`, :mod:`glide_fast.text` and
:mod:`glide_fast.checkpoints`, or adapt arguments to them.
"""

from __future__ import annotations

from glide_fast.compat._alias import install, uninstall

__all__ = ["install", "uninstall"]
