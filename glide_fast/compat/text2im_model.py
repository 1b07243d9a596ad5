"""Stands for ``glide_text2im.text2im_model``."""

from __future__ import annotations

from glide_fast.models.text2im import (
    InpaintText2ImUNet,
    SuperResInpaintText2ImUnet,
    SuperResText2ImUNet,
    Text2ImUNet,
)

__all__ = ["InpaintText2ImUNet", "SuperResInpaintText2ImUnet", "SuperResText2ImUNet", "Text2ImUNet"]
