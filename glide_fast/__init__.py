"""glide_fast: GLIDE text-to-image diffusion as fast as the hardware allows.

>>> from glide_fast import GlidePipeline
>>> GlidePipeline.from_pretrained("small")("a red cube").images[0].save("cube.png")  # doctest: +SKIP

Names are imported when they are first used, so that ``import glide_fast`` loads neither torch nor a GPU driver.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from glide_fast.version import __version__

_NAMES_OF = {
    "glide_fast.pipelines": ("GlidePipeline", "PipelineOutput"),
    "glide_fast.models": (
        "CLIPModel",
        "InpaintText2ImUNet",
        "SuperResInpaintText2ImUnet",
        "SuperResText2ImUNet",
        "Text2ImUNet",
        "create_clip_model",
        "create_model",
        "create_model_and_diffusion",
        "create_gaussian_diffusion",
        "model_and_diffusion_defaults",
        "model_and_diffusion_defaults_upsampler",
        "preset",
    ),
    "glide_fast.diffusion": ("GaussianDiffusion", "SpacedDiffusion"),
    "glide_fast.runtime": ("accelerate",),
    "glide_fast.checkpoints": ("load_checkpoint",),
    "glide_fast.env": ("environment", "report"),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]

if TYPE_CHECKING:
    from glide_fast.checkpoints import load_checkpoint
    from glide_fast.diffusion import GaussianDiffusion, SpacedDiffusion
    from glide_fast.env import environment, report
    from glide_fast.models import (
        CLIPModel,
        InpaintText2ImUNet,
        SuperResInpaintText2ImUnet,
        SuperResText2ImUNet,
        Text2ImUNet,
        create_clip_model,
        create_gaussian_diffusion,
        create_model,
        create_model_and_diffusion,
        model_and_diffusion_defaults,
        model_and_diffusion_defaults_upsampler,
        preset,
    )
    from glide_fast.pipelines import GlidePipeline, PipelineOutput
    from glide_fast.runtime.accelerate import accelerate


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
