"""Building models and their diffusion from options."""

from __future__ import annotations

from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.models.config import (
    Options,
    check_diffusion_options,
    check_model_options,
    complete,
    parse_attention_resolutions,
    parse_channel_mult,
)
from glide_fast.models.text2im import (
    InpaintText2ImUNet,
    SuperResInpaintText2ImUnet,
    SuperResText2ImUNet,
    Text2ImUNet,
)
from glide_fast.text.gpt2 import get_encoder

_CLASSES: dict[tuple[bool, bool], type[Text2ImUNet]] = {
    (False, False): Text2ImUNet,
    (True, False): InpaintText2ImUNet,
    (False, True): SuperResText2ImUNet,
    (True, True): SuperResInpaintText2ImUnet,
}


def create_model(
    image_size: int,
    num_channels: int,
    num_res_blocks: int,
    channel_mult: str,
    attention_resolutions: str,
    num_heads: int,
    num_head_channels: int,
    num_heads_upsample: int,
    use_scale_shift_norm: bool,
    dropout: float,
    text_ctx: int,
    xf_width: int,
    xf_layers: int,
    xf_heads: int,
    xf_final_ln: bool,
    xf_padding: bool,
    resblock_updown: bool,
    use_fp16: bool,
    cache_text_emb: bool,
    inpaint: bool,
    super_res: bool,
    norm_groups: int = 32,
    vocab_rows: int = 0,
    xf_ar: float = 0.0,
    share_unemb: bool = False,
) -> Text2ImUNet:
    """Build the UNet of the class for ``inpaint`` and ``super_res``, with new random fp32 weights on the CPU.

    Arguments as in the official function; the last four are :data:`glide_fast.models.config.EXTENSIONS`. ``channel_mult`` is a
    comma list or empty for the default of image sizes 64, 128 and 256; ``attention_resolutions`` lists image resolutions.
    With ``use_fp16`` the activations are fp16; call ``convert_to_fp16()`` after loading weights, as the official notebooks do.

    Raises:
        InvalidInputError: before anything is built, as :func:`glide_fast.models.config.check_model_options` does.
    """
    options = dict(locals())
    check_model_options(options)
    return _CLASSES[inpaint, super_res](
        text_ctx=text_ctx,
        xf_width=xf_width,
        xf_layers=xf_layers,
        xf_heads=xf_heads,
        xf_final_ln=xf_final_ln,
        tokenizer=get_encoder(),
        xf_padding=xf_padding,
        xf_ar=xf_ar,
        share_unemb=share_unemb,
        vocab_rows=vocab_rows,
        in_channels=3,
        model_channels=num_channels,
        out_channels=6,
        num_res_blocks=num_res_blocks,
        attention_resolutions=parse_attention_resolutions(attention_resolutions, image_size),
        dropout=dropout,
        channel_mult=parse_channel_mult(channel_mult, image_size),
        use_fp16=use_fp16,
        num_heads=num_heads,
        num_head_channels=num_head_channels,
        num_heads_upsample=num_heads_upsample,
        use_scale_shift_norm=use_scale_shift_norm,
        resblock_updown=resblock_updown,
        cache_text_emb=cache_text_emb,
        norm_groups=norm_groups,
    )


def create_gaussian_diffusion(
    steps: int, noise_schedule: str, timestep_respacing: str | list[int]
) -> SpacedDiffusion:
    """The diffusion process of a model, on the steps that ``timestep_respacing`` keeps (all where it is empty)."""
    betas = get_named_beta_schedule(noise_schedule, steps)
    return SpacedDiffusion(use_timesteps=space_timesteps(steps, timestep_respacing or [steps]), betas=betas)


def create_model_and_diffusion(
    *,
    diffusion_steps: int,
    noise_schedule: str,
    timestep_respacing: str,
    **model_options: object,
) -> tuple[Text2ImUNet, SpacedDiffusion]:
    """Build both from one set of options, such as ``model_and_diffusion_defaults()``."""
    check_diffusion_options(
        {
            "diffusion_steps": diffusion_steps,
            "noise_schedule": noise_schedule,
            "timestep_respacing": timestep_respacing,
        }
    )
    model = create_model(**model_options)  # type: ignore[arg-type]
    return model, create_gaussian_diffusion(diffusion_steps, noise_schedule, timestep_respacing)


def build(options: Options) -> tuple[Text2ImUNet, SpacedDiffusion]:
    """:func:`create_model_and_diffusion` of options that are completed first; those left out have their defaults."""
    return create_model_and_diffusion(**complete(options))
