"""Model configurations: the official options, their defaults, and the presets that are known by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glide_fast.diffusion.respacing import space_timesteps
from glide_fast.errors import invalid
from glide_fast.models.fields import Field, check_fields, choice, either, flag, list_of, number, text, whole

Options = dict[str, Any]

DEFAULT_CHANNEL_MULT = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
"""Level widths by image size where ``channel_mult`` is empty."""

EXTENSIONS: Options = {"norm_groups": 32, "vocab_rows": 0, "xf_ar": 0.0, "share_unemb": False}
"""Options beyond the official ones, with the values that reproduce the official model."""


MODEL_FIELDS: dict[str, Field] = {
    "image_size": whole(8, 4096),
    "num_channels": whole(1, 8192),
    "num_res_blocks": whole(1, 64),
    "channel_mult": text(100, "a comma list such as '1,2,3,4', or '' for the default"),
    "num_heads": whole(1, 1024),
    "num_head_channels": whole(1, 8192, -1),
    "num_heads_upsample": whole(1, 1024, -1),
    "attention_resolutions": text(100, "a comma list such as '32,16,8'"),
    "dropout": number(0, 1),
    "text_ctx": whole(1, 8192),
    "xf_width": whole(0, 16384),
    "xf_layers": whole(0, 256),
    "xf_heads": whole(1, 1024),
    "xf_final_ln": flag(),
    "xf_padding": flag(),
    "use_scale_shift_norm": flag(),
    "resblock_updown": flag(),
    "use_fp16": flag(),
    "cache_text_emb": flag(),
    "inpaint": flag(),
    "super_res": flag(),
    "norm_groups": whole(1, 8192),
    "vocab_rows": whole(0, 100_000),
    "xf_ar": number(0, 1e6),
    "share_unemb": flag(),
}
"""What each option of a model may be by itself; :func:`check_model_options` checks how they go together."""

DIFFUSION_FIELDS: dict[str, Field] = {
    "diffusion_steps": whole(1, 100_000),
    "noise_schedule": choice("linear", "squaredcos_cap_v2"),
    "timestep_respacing": either(
        text(1000, "counts like '100' or '10,10,3,2,2', 'ddimN', 'fast27' or ''"),
        list_of(whole(0, 100_000), 1000),
    ),
}
"""What each option of a diffusion process may be by itself."""

MOST_PARAMETERS = 20_000_000_000
"""Above this a model is taken for a mistake: six times the paper's largest."""

_VOCABULARY = 50_257


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
    """Add the options that ``options`` leaves out, with the defaults for this type of model; unknown names are an error."""
    super_res = bool(options.get("super_res", False))
    defaults = model_and_diffusion_defaults_upsampler() if super_res else model_and_diffusion_defaults()
    known = defaults | EXTENSIONS
    unknown = sorted(map(str, set(options) - set(known)))
    if unknown:
        raise invalid("options", unknown, "only " + ", ".join(known))
    return known | dict(options)


def _small(digits: str) -> int:
    """An entry of a comma list as a number; ValueError for one that is not a number, or is absurdly large."""
    value = int(digits)
    if value > 10_000:
        raise ValueError
    return value


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
        mults = tuple(_small(mult) for mult in channel_mult.split(","))
    except ValueError:
        raise invalid("channel_mult", channel_mult, "a comma list of integers, such as '1,2,3,4'") from None
    if any(mult < 1 for mult in mults) or 2 ** (len(mults) + 2) != image_size:
        wanted = max(image_size, 8).bit_length() - 3
        raise invalid("channel_mult", channel_mult, f"{wanted} positive integers for image_size {image_size}")
    return mults


def parse_attention_resolutions(attention_resolutions: str, image_size: int) -> tuple[int, ...]:
    """Downsampling factors of the levels with attention, from a comma list of image resolutions."""
    if not isinstance(attention_resolutions, str):
        raise invalid(
            "attention_resolutions", attention_resolutions, "a comma list as text, such as '32,16,8'"
        )
    try:
        resolutions = [_small(resolution) for resolution in attention_resolutions.split(",")]
    except ValueError:
        resolutions = [0]
    if any(resolution < 1 for resolution in resolutions):
        raise invalid(
            "attention_resolutions",
            attention_resolutions,
            "a comma list of positive integers, such as '32,16,8'",
        )
    return tuple(image_size // resolution for resolution in resolutions)


def check_options(options: Mapping[str, Any]) -> None:
    """Check complete options, of the model and of its diffusion, before anything is built.

    Raises:
        InvalidInputError: naming the first option whose type or range is off, or that does not go with the others.
    """
    check_diffusion_options(options)
    check_model_options(options)


def check_diffusion_options(options: Mapping[str, Any]) -> None:
    """:func:`check_options` of ``diffusion_steps``, ``noise_schedule`` and ``timestep_respacing``."""
    check_fields(DIFFUSION_FIELDS, options)
    if options["timestep_respacing"]:
        space_timesteps(options["diffusion_steps"], options["timestep_respacing"])


def check_model_options(options: Mapping[str, Any]) -> None:
    """Check the options that the network is built from; :func:`check_options` checks all options."""
    check_fields(MODEL_FIELDS, options)
    width, groups = options["num_channels"], options["norm_groups"]
    if options["xf_width"] % options["xf_heads"]:
        raise invalid("xf_heads", options["xf_heads"], f"a divisor of xf_width {options['xf_width']}")
    if width % groups:
        raise invalid("norm_groups", groups, f"a divisor of num_channels {width}")
    if options["share_unemb"] and options["vocab_rows"] and options["xf_ar"]:
        raise invalid("share_unemb", True, "false with vocab_rows: the two differ in size")
    levels = level_widths(options)
    attended = attended_levels(options)
    inner = levels[-1]
    for name, per_head, blocks in (
        ("num_head_channels", True, {*(levels[level] for level in attended), inner}),
        ("num_heads", False, {*(levels[level] for level in attended), inner}),
        ("num_heads_upsample", False, {levels[level] for level in attended}),
    ):
        value = options[name]
        if value == -1 or (not per_head and options["num_head_channels"] != -1):
            continue
        off = sorted(channels for channels in blocks if channels % value)
        if off:
            raise invalid(
                name,
                value,
                f"a divisor of the attention block's {off[0]} channels (num_channels times channel_mult)",
            )
    count = parameters_about(options)
    if count > MOST_PARAMETERS:
        raise invalid(
            "num_channels",
            width,
            f"sizes that make at most {MOST_PARAMETERS:,} parameters; these make {count:,}",
        )


def level_widths(options: Mapping[str, Any]) -> list[int]:
    """Channels of each level, the largest pictures first."""
    mults = parse_channel_mult(options["channel_mult"], options["image_size"])
    return [options["num_channels"] * mult for mult in mults]


def attended_levels(options: Mapping[str, Any]) -> set[int]:
    """The levels whose blocks are followed by attention."""
    size = options["image_size"]
    factors = parse_attention_resolutions(options["attention_resolutions"], size)
    levels = range(len(parse_channel_mult(options["channel_mult"], size)))
    return {level for level in levels if 2**level in factors}


def parameters_about(options: Mapping[str, Any]) -> int:
    """The model's number of parameters, by the large ones: norms, biases and the first and last convolution are left out."""
    levels, width = level_widths(options), options["num_channels"]
    attended, text_width = attended_levels(options), options["xf_width"]
    embedding = 4 * width
    film = 2 if options["use_scale_shift_norm"] else 1

    def residual(channels: int, out: int) -> int:
        skip = channels * out if channels != out else 0
        return 9 * (channels + out) * out + film * embedding * out + skip

    def attention(channels: int) -> int:
        return 4 * channels * channels + 2 * text_width * channels

    def resampling(channels: int) -> int:
        return residual(channels, channels) if options["resblock_updown"] else 9 * channels * channels

    count = width * embedding + embedding * embedding
    channels = levels[0]
    skips = [channels]
    for level, out in enumerate(levels):
        for _ in range(options["num_res_blocks"]):
            count += residual(channels, out) + (attention(out) if level in attended else 0)
            channels = out
            skips.append(channels)
        if level < len(levels) - 1:
            count += resampling(channels)
            skips.append(channels)
    count += 2 * residual(channels, channels) + attention(channels)
    for level in reversed(range(len(levels))):
        out = levels[level]
        for _ in range(options["num_res_blocks"] + 1):
            count += residual(channels + skips.pop(), out) + (attention(out) if level in attended else 0)
            channels = out
        if level:
            count += resampling(channels)
    rows = (options["vocab_rows"] or _VOCABULARY) + (_VOCABULARY if options["xf_ar"] else 0)
    positions = options["text_ctx"] * (2 if options["xf_padding"] else 1)
    layers = 12 * options["xf_layers"] * text_width
    return count + text_width * (rows + positions + layers + embedding)
