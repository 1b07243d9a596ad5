"""The public ops: contracts, plain-torch references and the rule that picks a backend for each."""

from glide_fast.ops.convolution import convolution
from glide_fast.ops.group_norm_act import group_norm_act
from glide_fast.ops.guided_step import guided_step
from glide_fast.ops.masked_attention import masked_attention
from glide_fast.ops.resample import resample
from glide_fast.ops.text_attention import text_attention

__all__ = ["convolution", "group_norm_act", "guided_step", "masked_attention", "resample", "text_attention"]
