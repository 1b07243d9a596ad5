"""The networks: four text-conditional UNets and the noise-aware CLIP, with the released checkpoints' parameter names."""

from glide_fast.models.clip import CLIPModel, create_clip_model
from glide_fast.models.config import (
    PRESETS,
    model_and_diffusion_defaults,
    model_and_diffusion_defaults_upsampler,
    preset,
)
from glide_fast.models.factory import (
    build,
    create_gaussian_diffusion,
    create_model,
    create_model_and_diffusion,
)
from glide_fast.models.text2im import (
    InpaintText2ImUNet,
    SuperResInpaintText2ImUnet,
    SuperResText2ImUNet,
    Text2ImUNet,
    TextEmbedding,
)

__all__ = [
    "PRESETS",
    "CLIPModel",
    "InpaintText2ImUNet",
    "SuperResInpaintText2ImUnet",
    "SuperResText2ImUNet",
    "Text2ImUNet",
    "TextEmbedding",
    "build",
    "create_clip_model",
    "create_gaussian_diffusion",
    "create_model",
    "create_model_and_diffusion",
    "model_and_diffusion_defaults",
    "model_and_diffusion_defaults_upsampler",
    "preset",
]
