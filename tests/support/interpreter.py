"""Triton's interpreter, made to treat bfloat16 as devices do.

It keeps bfloat16 as bare 16-bit integers: it multiplies those in a ``dot``, and cuts float32 off where devices round to nearest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def teach_bfloat16() -> None:
    """Patch the interpreter of this process."""
    from triton import language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def convert_float(value: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(value, source, target, rounding)
        wide = torch.from_numpy(np.array(value, dtype=np.float32, ndmin=1))
        return wide.bfloat16().view(torch.int16).numpy().view(np.uint16).reshape(np.shape(value))

    def values(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle.data
        return (handle.data.astype(np.uint32) << 16).view(np.float32)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        product = np.matmul(values(a), values(b), dtype=d.data.dtype) + d.data
        return interpreter.TensorHandle(product, d.dtype.scalar)

    interpreter._convert_float = convert_float
    interpreter.InterpreterBuilder.create_dot = create_dot
