"""Model configurations: the official options, their defaults, and the presets that are known by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glide_fast.errors import invalid

Options = dict[str, Any]

DEFAULT_CHANNEL_MULT = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
"""Level widths by image size where ``channel_mult`` is empty."""

EXTENSIONS: Options = {"norm_groups": 32, "vocab_rows": 0, "xf_ar": 0.0, "share_unemb": False}
"""Options beyond the official ones, with the values that reproduce the official model."""


def model_and_diffusion_defaults() -> Options:
    """Options of the released 64 px base model (fp16 as released)."""
    return {
        "image_size": 64,
        "num_channels": 192,
        "num_res_blocks": 3,
        "channel_mult": "",
        "num_heads": 1,
        "num_head_channels": 64,
        "num_heads_upsample": -1,
        "attention_resolutions": "32,16,8",
        "dropout": 0.1,
        "text_ctx": 128,
        "xf_width": 512,
        "xf_layers": 16,
        "xf_heads": 8,
        "xf_final_ln": True,
        "xf_padding": True,
        "diffusion_steps": 1000,
        "noise_schedule": "squaredcos_cap_v2",
        "timestep_respacing": "",
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        "use_fp16": True,
        "cache_text_emb": False,
        "inpaint": False,
        "super_res": False,
    }


def model_and_diffusion_defaults_upsampler() -> Options:
    """Options of the released 64 to 256 px upsampler."""
    return model_and_diffusion_defaults() | {
        "image_size": 256,
        "num_res_blocks": 2,
        "noise_schedule": "linear",
        "super_res": True,
    }


def _presets() -> dict[str, Options]:
    base, upsampler = model_and_diffusion_defaults(), model_and_diffusion_defaults_upsampler()
    # Nichol et al. 2021, section 4.1: 512 and 384 channels; text widths 2048 (24 layers) and 1024. The depth of the upsampler's
    # text encoder is not published; 16 layers as in the released models give the paper's 1.5 B parameters.
    paper_text = {"xf_width": 2048, "xf_layers": 24, "xf_heads": 32}
    paper_base = base | paper_text | {"num_channels": 512}
    paper_upsampler = upsampler | {"num_channels": 384, "xf_width": 1024, "xf_heads": 16}
    return {
        "base": base,
        "upsample": upsampler,
        "base-inpaint": base | {"inpaint": True},
        "upsample-inpaint": upsampler | {"inpaint": True},
        "paper-base": paper_base,
        "paper-upsample": paper_upsampler,
        "paper-base-inpaint": paper_base | {"inpaint": True},
        "paper-upsample-inpaint": paper_upsampler | {"inpaint": True},
    }


PRESETS = tuple(_presets())
"""Names that :func:`preset` knows."""


def preset(name: str) -> Options:
    """Options of a model known by name: the released ones by their official names, the paper's as ``paper-*``."""
    presets = _presets()
    if name not in presets:
        raise invalid("preset", name, "one of " + ", ".join(presets))
    return presets[name]


def complete(options: Mapping[str, Any]) -> Options:
    """Fill what ``options`` leaves out from the defaults of its kind; unknown names are an error."""
    super_res = bool(options.get("super_res", False))
    defaults = model_and_diffusion_defaults_upsampler() if super_res else model_and_diffusion_defaults()
    known = defaults | EXTENSIONS
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise invalid("options", unknown, "only " + ", ".join(known))
    return known | dict(options)


def parse_channel_mult(channel_mult: str, image_size: int) -> tuple[int, ...]:
    """Level multipliers from a comma list whose length fits the image size, or the size's default for an empty one."""
    if not isinstance(channel_mult, str):
        raise invalid(
            "channel_mult", channel_mult, "a comma list as text, such as '1,2,3,4', or '' for the default"
        )
    if channel_mult == "":
        if image_size not in DEFAULT_CHANNEL_MULT:
            sizes = ", ".join(map(str, DEFAULT_CHANNEL_MULT))
            raise invalid("image_size", image_size, f"{sizes}; other sizes with an explicit channel_mult")
        return DEFAULT_CHANNEL_MULT[image_size]
    try:
        mults = tuple(int(mult) for mult in channel_mult.split(","))
    except ValueError:
        raise invalid("channel_mult", channel_mult, "a comma list of integers, such as '1,2,3,4'") from None
    if any(mult < 1 for mult in mults) or 2 ** (len(mults) + 2) != image_size:
        wanted = max(image_size, 8).bit_length() - 3
        raise invalid("channel_mult", channel_mult, f"{wanted} positive integers for image_size {image_size}")
    return mults


def parse_attention_resolutions(attention_resolutions: str, image_size: int) -> tuple[int, ...]:
    """Downsampling factors of the levels with attention, from a comma list of image resolutions."""
    try:
        resolutions = [int(resolution) for resolution in attention_resolutions.split(",")]
    except ValueError:
        resolutions = [0]
    if any(resolution < 1 for resolution in resolutions):
        raise invalid(
            "attention_resolutions",
            attention_resolutions,
            "a comma list of positive integers, such as '32,16,8'",
        )
    return tuple(image_size // resolution for resolution in resolutions)
