"""The shapes of GLIDE's two models that the kernels' configurations are chosen, compiled and counted for.

From the released models' hyper-parameters: base 64x64 with 192 channels times 1, 2, 3, 4 and attention at 32, 16 and 8 pixels;
upsampler 256x256 with 192 channels times 1, 1, 2, 2, 3, 4.
"""

from __future__ import annotations

GROUPS = 32
HEAD = 64
TEXT = 128  # tokens

# Side and channels of what is normalised.
BASE = (
    *((64, 192), (64, 384), (32, 192), (32, 384), (32, 576), (32, 768), (32, 960)),
    *((16, 384), (16, 576), (16, 960), (16, 1152), (16, 1344), (8, 576), (8, 768), (8, 1344), (8, 1536)),
)
UPSAMPLER = ((256, 192), (256, 384), (128, 192), (128, 384), (64, 384), (64, 576), (64, 768))
ATTENTION = ((6, 1024), (9, 256), (12, 64))  # heads and tokens of the base model's levels

ELEMENTS = (
    ("fp16", (2, 8, 32)),
    ("bf16", (2,)),
    ("fp32", (2,)),
)  # types, and the batch sizes benchmarked in each
