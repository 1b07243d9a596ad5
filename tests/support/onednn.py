"""What oneDNN convolves on the processor that the tests run on."""

from __future__ import annotations

import pytest
import torch

from glide_fast.ops.convolution.packed_weight import DTYPES, why_not

TYPES = [dtype for dtype in DTYPES if why_not(dtype) is None]
"""The types that it takes here, the narrowest last: bfloat16 needs AVX-512."""

needs_bf16 = pytest.mark.skipif(torch.bfloat16 not in TYPES, reason=f"{why_not(torch.bfloat16)}")
