"""With kernels on, a forward copies no activation: nothing concatenated, permuted or widened on the way."""

from __future__ import annotations

import pytest
import torch
from support.onednn import TYPES
from support.small_unets import KINDS, SIZE, call_arguments, states, tiny_model
from support.traced import copies_of_activations

from glide_fast.ops import native
from glide_fast.runtime import accelerate
from glide_fast.runtime.model import Accelerated

# The recorded configurations; "narrowing" has a block after a skip that keeps the width, whose shortcut is the two side by side.
HEADS = {"num_channels": 32, "num_head_channels": 32}  # of a size that the attention kernels take
GLIDES = [name for name in KINDS if name not in ("added-embedding", "strided", "narrowing")]


@pytest.mark.skipif(
    native.load() is None, reason="the kernels for CPUs are not built: glide_fast._C is missing"
)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", GLIDES)
def test_a_step_of_a_loop_copies_nothing(kind: str, dtype: torch.dtype) -> None:
    model = accelerate(tiny_model(kind, **HEADS), dtype=dtype, image_size=SIZE)
    assert isinstance(model, Accelerated)
    arguments = call_arguments(kind)
    told = {key: value for key, value in arguments.items() if key not in ("tokens", "mask")}
    text = model.encode_text(arguments["tokens"], arguments["mask"]) if "tokens" in arguments else None
    bound = model.bind([5, 300], 2, (3, SIZE, SIZE), text=text, **told)
    inputs = bound.empty_inputs(2, (3, SIZE, SIZE)).copy_(states())
    rows, times = torch.ones(2, dtype=torch.int64), torch.full((2,), 300)
    bound(inputs, times, rows)
    assert copies_of_activations(lambda: bound(inputs, times, rows), model) == []
