"""Reading a model's options back from the names and shapes in its state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from glide_fast.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

# (inpaint, super_res) by the channels that the first convolution reads: x has 3, image * mask 3, mask 1,
# low_res 3.
_ROLES = {3: (False, False), 6: (False, True), 7: (True, False), 10: (True, True)}
# What an empty channel_mult stands for, by image size.
_DEFAULT_CHANNEL_MULT = {64: "1,2,3,4", 128: "1,1,2,3,4", 256: "1,1,2,2,4,4"}


def infer_kind(state: Mapping[str, Any]) -> str | None:
    """Which model a state dict is of: "unet", "clip_text", "clip_image"; None where the names do not say."""
    if "input_blocks.0.0.weight" in state and "time_embed.0.weight" in state:
        return "unet"
    if "blocks.input.w_voc" in state:
        return "clip_text"
    if "blocks.input.patch_proj" in state:
        return "clip_image"
    return None


def describe_role(in_channels: int) -> str:
    """What a UNet with that many input channels is, in words."""
    if in_channels not in _ROLES:
        return "unknown variant"
    inpaint, super_res = _ROLES[in_channels]
    return ("inpainting " if inpaint else "") + ("upsampler" if super_res else "base model")


def infer_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options that names and shapes decide, under the official names.

    A UNet gives image_size, num_channels, num_res_blocks, channel_mult ("" where it is the default for the
    size), attention_resolutions, text_ctx, xf_width, xf_layers, xf_final_ln, xf_padding,
    use_scale_shift_norm, resblock_updown, inpaint and super_res, and vocab_rows where the token embedding
    stores only some rows. (A model of one level has nothing to resample and no resblock_updown; one without
    text has xf_width 0 and no other text option.) The image size is the official 2 ** (levels + 2).

    The noise-aware CLIP's text encoder gives n_vocab, max_text_len, n_embd and n_xf_blocks_text; its image
    encoder image_size, patch_size, n_timesteps (0 for clean images), n_embd and n_xf_blocks_image.

    What leaves no trace in the shapes is not in the result: numbers of heads, dropout, the diffusion's
    schedule and steps, precision.

    Raises CheckpointError where the state dict is of none of these, or is incomplete.
    """
    return infer_from_shapes({name: tuple(tensor.shape) for name, tensor in state.items()})


def infer_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """:func:`infer_options` of the shapes alone, as a file's header states them."""
    kind = infer_kind(shapes)
    try:
        if kind == "unet":
            return _unet(shapes)
        if kind == "clip_text":
            return _clip_text(shapes)
        if kind == "clip_image":
            return _clip_image(shapes)
    except (KeyError, IndexError, ZeroDivisionError, OverflowError) as error:
        raise CheckpointError(
            f"the options cannot be read from the shapes: {error} is missing or misshapen"
        ) from error
    sample = ", ".join(list(shapes)[:3]) or "no keys at all"
    raise CheckpointError(f"the keys are those of no model known here ({sample}); the options must be given")


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered children `prefix` has; they must be 0, 1, ..., n - 1."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)}
    for number in range(len(numbers)):
        if str(number) not in numbers:
            raise CheckpointError(f"the options cannot be read from the shapes: {prefix}{number} is missing")
    return len(numbers)


def _unet(shapes: Shapes) -> dict[str, Any]:
    num_channels = shapes["time_embed.0.weight"][1]
    in_channels = shapes["input_blocks.0.0.weight"][1]
    if in_channels not in _ROLES:
        raise CheckpointError(
            f"the options cannot be read from the shapes: input_blocks.0.0.weight reads {in_channels} "
            "channels; known: " + ", ".join(f"{channels} ({describe_role(channels)})" for channels in _ROLES)
        )
    inpaint, super_res = _ROLES[in_channels]
    num_res_blocks, levels = _depth(shapes)
    widths = [
        shapes[f"input_blocks.{1 + level * (num_res_blocks + 1)}.0.out_layers.3.weight"][0]
        for level in range(levels)
    ]
    if any(width % num_channels for width in widths):
        raise CheckpointError(
            "the options cannot be read from the shapes: "
            f"level widths {widths} are no multiples of {num_channels}"
        )
    channel_mult = ",".join(str(width // num_channels) for width in widths)
    image_size = 2 ** (levels + 2)
    attended = [
        image_size >> level
        for level in range(levels)
        if f"input_blocks.{1 + level * (num_res_blocks + 1)}.1.qkv.weight" in shapes
    ]
    first_block = "input_blocks.1.0."
    options: dict[str, Any] = {
        "image_size": image_size,
        "num_channels": num_channels,
        "num_res_blocks": num_res_blocks,
        "channel_mult": "" if channel_mult == _DEFAULT_CHANNEL_MULT.get(image_size) else channel_mult,
        # An empty list is no value for this option; no level has a resolution of 1.
        "attention_resolutions": ",".join(map(str, attended or [1])),
        "use_scale_shift_norm": shapes[first_block + "emb_layers.1.weight"][0] == 2 * widths[0],
        "inpaint": inpaint,
        "super_res": super_res,
    }
    if levels > 1:
        options["resblock_updown"] = f"input_blocks.{num_res_blocks + 1}.0.in_layers.2.weight" in shapes
    return options | _text(shapes)


def _depth(shapes: Shapes) -> tuple[int, int]:
    """(residual blocks per level, levels).

    The decoder has num_res_blocks + 1 blocks a level, and the last of each level but the outermost ends by
    enlarging: by a residual block or a convolution behind the block's own residual block and attention.
    """
    blocks = _count(shapes, "output_blocks.")
    for index in range(blocks):
        enlarging = (
            f"output_blocks.{index}.{position}.{layer}.weight"
            for position in (1, 2)
            for layer in ("conv", "in_layers.2")
        )
        if any(name in shapes for name in enlarging):
            if index == 0 or blocks % (index + 1):
                break
            return index, blocks // (index + 1)
    else:
        return blocks - 1, 1
    raise CheckpointError(
        "the options cannot be read from the shapes: output_blocks do not form levels of equal depth"
    )


def _text(shapes: Shapes) -> dict[str, Any]:
    if "token_embedding.weight" not in shapes:
        return {"xf_width": 0}
    compact = "token_embedding.index" in shapes  # token ids go through an index to the rows in use
    return {
        "text_ctx": shapes["positional_embedding"][0],
        "xf_width": shapes["positional_embedding"][1],
        "xf_layers": _count(shapes, "transformer.resblocks."),
        "xf_final_ln": "final_ln.weight" in shapes,
        "xf_padding": "padding_embedding" in shapes,
    } | ({"vocab_rows": shapes["token_embedding.weight"][0]} if compact else {})


def _blocks(shapes: Shapes) -> int:
    return _count({name.replace("blocks.block_", "block.", 1): () for name in shapes}, "block.")


def _clip_text(shapes: Shapes) -> dict[str, Any]:
    return {
        "n_vocab": shapes["blocks.input.w_voc"][0],
        "max_text_len": shapes["blocks.input.w_pos"][0],
        "n_xf_blocks_text": _blocks(shapes),
        "n_embd": shapes["blocks.output.f.w"][0],
    }


def _clip_image(shapes: Shapes) -> dict[str, Any]:
    patch_size = shapes["blocks.input.patch_proj"][2]
    patches = shapes["blocks.input.w_pos"][0] - 1  # position 0 belongs to the timestep
    side = math.isqrt(max(patches, 0))
    if side * side != patches:
        raise CheckpointError(
            f"the options cannot be read from the shapes: {patches} patches are no square image"
        )
    return {
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "n_timesteps": shapes.get("blocks.input.w_t", (0,))[0],
        "n_xf_blocks_image": _blocks(shapes),
        "n_embd": shapes["blocks.output.f.w"][0],
    }
