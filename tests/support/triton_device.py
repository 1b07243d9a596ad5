"""Where the checks of Triton's kernels keep their tensors."""

from __future__ import annotations

import torch
from support.interpreter import prepare_once_a_launch

from glide_fast.ops.triton_runtime import interpreting

DEVICE = "cuda" if torch.cuda.is_available() and not interpreting() else "cpu"
"""The CPU in the interpreter, and where launches are only recorded without a device."""

if interpreting():
    prepare_once_a_launch()
