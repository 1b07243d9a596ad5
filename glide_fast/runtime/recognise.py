"""Recognising the official package's models by their structure, and building the same models of glide_fast's classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from glide_fast.errors import invalid
from glide_fast.models.conditioning import InpaintInput, SuperResInpaintInput, SuperResInput, WiderInput
from glide_fast.models.text2im import (
    InpaintText2ImUNet,
    SuperResInpaintText2ImUnet,
    SuperResText2ImUNet,
    Text2ImUNet,
)
from glide_fast.models.unet import (
    InpaintUNetModel,
    SuperResInpaintUNetModel,
    SuperResUNetModel,
    UNetModel,
)
from glide_fast.runtime.structure import refuse_unusual

_TEXT = (Text2ImUNet, SuperResText2ImUNet, InpaintText2ImUNet, SuperResInpaintText2ImUnet)
_PLAIN = (UNetModel, SuperResUNetModel, InpaintUNetModel, SuperResInpaintUNetModel)
# The index in _TEXT and _PLAIN, by the input of the first convolution: how many pictures of 3 channels, how many masks.
_WIDTHS = {(1, 0): 0, (2, 0): 1, (2, 1): 2, (3, 1): 3}
_FACTS = (
    "model_channels",
    "out_channels",
    "num_res_blocks",
    "attention_resolutions",
    "dropout",
    "channel_mult",
    "conv_resample",
    "num_heads",
    "num_head_channels",
    "num_heads_upsample",
)
_INPUTS = (SuperResInput, InpaintInput, SuperResInpaintInput, WiderInput)
_OFFICIAL = frozenset(cls.__name__ for cls in (*_TEXT, *_PLAIN, *_INPUTS))
"""Names of the classes, the official package's and ours, whose ``forward`` is known."""
_PARTS = ("time_embed", "input_blocks", "middle_block", "output_blocks", "out")


def as_ours(model: nn.Module) -> UNetModel:
    """``model`` itself if its class is one of glide_fast; else an equal model of glide_fast's classes, on the meta device.

    Raises:
        InvalidInputError: for a model that is not built like GLIDE's UNets, or was changed since it was built.
    """
    if isinstance(model, UNetModel):
        refuse_unusual(model, _OFFICIAL)
        return model
    missing = [name for name in (*_PARTS, *_FACTS) if not hasattr(model, name)]
    if missing:
        raise invalid(
            "model",
            type(model).__name__,
            f"a UNet of glide_fast or of the official package; this one has no {', '.join(missing)}",
        )
    refuse_unusual(model, _OFFICIAL)
    theirs: Any = model
    facts: dict[str, Any] = {name: getattr(model, name) for name in _FACTS}
    blocks: list[Any] = [m for m in theirs.modules() if hasattr(m, "in_layers") and hasattr(m, "out_layers")]
    if not blocks:
        raise invalid("model", type(model).__name__, "a UNet with residual blocks (in_layers, out_layers)")
    first: Any = next(theirs.input_blocks[0].children())
    weight: torch.Tensor = first.weight
    pictures, masks = divmod(weight.shape[1], 3)
    index = _WIDTHS.get((pictures, masks))
    if index is None:
        raise invalid("model", f"{weight.shape[1]} input channels", "3, 6, 7 or 10")
    kwargs = facts | {
        "in_channels": 3,
        "dims": weight.dim() - 2,
        "num_classes": getattr(model, "num_classes", None),
        "use_checkpoint": False,
        "use_scale_shift_norm": bool(blocks[0].use_scale_shift_norm),
        "resblock_updown": any(bool(getattr(block, "updown", False)) for block in blocks),
        "norm_groups": blocks[0].in_layers[0].num_groups,
    }
    with torch.device("meta"):
        if not hasattr(model, "transformer"):
            ours = _PLAIN[index](**kwargs)
        else:
            ours = _TEXT[index](
                text_ctx=theirs.text_ctx,
                xf_width=theirs.xf_width,
                xf_layers=theirs.transformer.layers,
                xf_heads=theirs.transformer.resblocks[0].attn.heads,
                xf_final_ln=theirs.final_ln is not None,
                tokenizer=theirs.tokenizer,
                xf_ar=float(getattr(model, "xf_ar", 0.0)),
                xf_padding=bool(theirs.xf_padding),
                cache_text_emb=bool(getattr(model, "cache_text_emb", False)),
                **kwargs,
            )
    wanted = {name: tuple(p.shape) for name, p in ours.state_dict().items()}
    found = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    if wanted != found:
        differing = sorted(
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        )
        raise invalid(
            "model",
            type(model).__name__,
            f"a UNet with the official state dict; {len(differing)} entries differ, first {differing[0]}",
        )
    ours.train(model.training)
    return ours
