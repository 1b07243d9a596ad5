"""window_convolution for what records operators instead of running them."""

from __future__ import annotations

from glide_fast.ops.custom_op import CustomOp
from glide_fast.ops.window_convolution import reference
from glide_fast.ops.window_convolution.arguments import Call

NODE = CustomOp("window_convolution", Call, reference.run)
