"""The public ops: contracts, plain-torch references and the rule that picks a backend for each."""

from glide_fast.ops.convolution import convolution
from glide_fast.ops.group_norm_act import group_norm_act
from glide_fast.ops.guided_step import guided_step
from glide_fast.ops.masked_attention import masked_attention
from glide_fast.ops.output_convolution import output_convolution
from glide_fast.ops.resample import resample
from glide_fast.ops.text_attention import text_attention
from glide_fast.ops.window_convolution import window_convolution

__all__ = [
    "convolution",
    "group_norm_act",
    "guided_step",
    "masked_attention",
    "output_convolution",
    "resample",
    "text_attention",
    "window_convolution",
]
