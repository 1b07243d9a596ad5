"""convolution for what records operators instead of running them. Not for packed weights, whose layout no such record knows."""

from __future__ import annotations

from glide_fast.ops.convolution import reference
from glide_fast.ops.convolution.arguments import Call
from glide_fast.ops.custom_op import CustomOp

NODE = CustomOp("convolution", Call, reference.run)
