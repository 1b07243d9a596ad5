"""Pipelines: what most people call. Text to image, upsampling, inpainting and editing, image to image.

Names are imported when they are first used: the command line reads the options of a call without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glide_fast.pipelines.output import PipelineOutput, StepEnd
    from glide_fast.pipelines.parts import SmallerBatchWarning
    from glide_fast.pipelines.pipeline import GlidePipeline
    from glide_fast.pipelines.stage import Stage

_MODULES = {
    "GlidePipeline": "pipeline",
    "PipelineOutput": "output",
    "SmallerBatchWarning": "parts",
    "Stage": "stage",
    "StepEnd": "output",
}

__all__ = ["GlidePipeline", "PipelineOutput", "SmallerBatchWarning", "Stage", "StepEnd"]


def __getattr__(name: str) -> Any:
    if name in _MODULES.values():
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
