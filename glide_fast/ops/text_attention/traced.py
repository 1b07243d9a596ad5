"""text_attention for what records operators instead of running them."""

from __future__ import annotations

from glide_fast.ops.custom_op import CustomOp
from glide_fast.ops.text_attention import reference
from glide_fast.ops.text_attention.arguments import Call

NODE = CustomOp("text_attention", Call, reference.run)
