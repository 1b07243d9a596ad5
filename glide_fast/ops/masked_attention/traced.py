"""masked_attention as one operator, for tools that record operators instead of running them (torch.compile, export)."""

from __future__ import annotations

from glide_fast.ops.custom_op import CustomOp
from glide_fast.ops.masked_attention import reference
from glide_fast.ops.masked_attention.arguments import Call

NODE = CustomOp("masked_attention", Call, reference.run)
