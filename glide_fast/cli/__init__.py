"""The command line, ``glide-fast``. Commands import torch when they run, so that help is instant."""

from __future__ import annotations

from glide_fast.cli.app import app, main

__all__ = ["app", "main"]
