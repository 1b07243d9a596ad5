"""Stands for ``glide_text2im.fp16_util``."""

from __future__ import annotations

from glide_fast.models.precision import convert_module_to_f16, convert_module_to_f32

__all__ = ["convert_module_to_f16", "convert_module_to_f32"]
