"""The fast runtime: accelerated models and captured sampling loops."""

from __future__ import annotations

from glide_fast.runtime.accelerate import accelerate

__all__ = ["accelerate"]
