"""Stands for ``glide_text2im.model_creation``."""

from __future__ import annotations

from glide_fast.diffusion.respacing import SpacedDiffusion
from glide_fast.models import factory
from glide_fast.models.config import model_and_diffusion_defaults, model_and_diffusion_defaults_upsampler
from glide_fast.models.factory import create_gaussian_diffusion, create_model
from glide_fast.models.text2im import Text2ImUNet

__all__ = [
    "create_gaussian_diffusion",
    "create_model",
    "create_model_and_diffusion",
    "model_and_diffusion_defaults",
    "model_and_diffusion_defaults_upsampler",
]


def create_model_and_diffusion(
    image_size: int,
    num_channels: int,
    num_res_blocks: int,
    channel_mult: str,
    num_heads: int,
    num_head_channels: int,
    num_heads_upsample: int,
    attention_resolutions: str,
    dropout: float,
    text_ctx: int,
    xf_width: int,
    xf_layers: int,
    xf_heads: int,
    xf_final_ln: bool,
    xf_padding: bool,
    diffusion_steps: int,
    noise_schedule: str,
    timestep_respacing: str,
    use_scale_shift_norm: bool,
    resblock_updown: bool,
    use_fp16: bool,
    cache_text_emb: bool,
    inpaint: bool,
    super_res: bool,
) -> tuple[Text2ImUNet, SpacedDiffusion]:
    """A UNet and its diffusion process from the official options, by name or in the official order."""
    return factory.create_model_and_diffusion(
        image_size=image_size,
        num_channels=num_channels,
        num_res_blocks=num_res_blocks,
        channel_mult=channel_mult,
        num_heads=num_heads,
        num_head_channels=num_head_channels,
        num_heads_upsample=num_heads_upsample,
        attention_resolutions=attention_resolutions,
        dropout=dropout,
        text_ctx=text_ctx,
        xf_width=xf_width,
        xf_layers=xf_layers,
        xf_heads=xf_heads,
        xf_final_ln=xf_final_ln,
        xf_padding=xf_padding,
        diffusion_steps=diffusion_steps,
        noise_schedule=noise_schedule,
        timestep_respacing=timestep_respacing,
        use_scale_shift_norm=use_scale_shift_norm,
        resblock_updown=resblock_updown,
        use_fp16=use_fp16,
        cache_text_emb=cache_text_emb,
        inpaint=inpaint,
        super_res=super_res,
    )
