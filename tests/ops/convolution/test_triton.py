"""When convolution's Triton backend declines; what its kernels compute is in check_triton.py."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from glide_fast.errors import BackendError
from glide_fast.ops import convolution
from glide_fast.ops.backends import force
from glide_fast.ops.convolution import triton as convolution_triton
from glide_fast.ops.convolution import ways
from glide_fast.ops.convolution.arguments import Call
from glide_fast.ops.convolution.packed_weight import PackedWeight

op = importlib.import_module("glide_fast.ops.convolution")


def operands(dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    x = torch.zeros(1, 16, 4, 6, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.zeros(8, 16, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    return {"x": x, "weight": weight, "bias": torch.zeros(8)}


def test_on_a_cpu_it_declines_even_where_it_is_forced() -> None:
    with force(convolution="triton"), pytest.raises(BackendError, match="not on a CUDA device"):
        convolution(**operands())


def test_it_is_chosen_only_where_it_was_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_triton.triton_runtime, "why_not", lambda *_: None)
    monkeypatch.setattr(op.cudnn, "supports", lambda facts: None)
    facts = Call(**operands()).facts()
    assert convolution_triton.supports(facts) is None
    for forced, expected in (("reference", convolution_triton.SLOWER), ("triton", None)):
        with force(convolution=forced):
            verdicts = {v.backend: v for v in op.OP.explain(facts).verdicts}
        assert verdicts["triton"].reason == expected
        assert verdicts["triton"].chosen == (forced == "triton")
    for batch, side, channels, chosen in (
        (1, 8, (768, 768), True),
        (2, 8, (1536, 768), True),
        (2, 16, (576, 576), False),
        (32, 8, (768, 768), False),
    ):
        measured = facts._replace(batch=batch, size=(side, side), channels=channels)
        assert (convolution_triton.worth(measured) is None) == chosen


def test_the_fastest_way_is_the_measured_one() -> None:
    """Of each convolution that was measured; by the rule for others, and by cuDNN where nothing like it was."""
    for at in ways.MEASURED:
        samples, positions = int(at.pixels / at.side**2), int(at.side**2)
        times = ways.predicted(at)
        chosen = ways.fastest(samples, positions, at.inputs, at.outputs)
        assert times[chosen] <= times[ways.CUDNN]
        assert chosen == ways.CUDNN or times[chosen] * ways.MARGIN[chosen] <= times[ways.CUDNN]
        if chosen == ways.WINDOWS:
            assert ways.windows_bytes(at.pixels, at.inputs) <= ways.MOST_BYTES
        picture = ways.fastest(samples, positions, at.inputs, at.outputs, windows=False)
        assert picture != ways.WINDOWS and times[picture] <= times[ways.CUDNN]
    for small in ((2, 64, 768, 768), (2, 256, 576, 576), (2, 256, 1152, 576), (32, 256, 576, 576)):
        assert ways.fastest(*small) == ways.WINDOWS
    for large in ((32, 4096, 192, 192), (1, 65536, 192, 192), (32, 1024, 384, 384)):
        assert ways.fastest(*large) == ways.CUDNN
    for unlike in ((2, 64, 32, 32), (1, 1, 768, 768), (2, 10**8, 768, 768), (0, 64, 768, 768)):
        assert ways.fastest(*unlike) == ways.CUDNN


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (operands(torch.float32), "float16 and bfloat16"),
        ({"x": operands()["x"].requires_grad_()}, "gradients are wanted"),
        ({"x": operands()["x"][:0]}, "no elements"),
        ({"weight": PackedWeight.pack(operands(torch.float32)["weight"], input_shape=(1, 16, 4, 6))}, "packed"),
    ],
    ids=["fp32", "gradients", "empty", "packed"],
)  # fmt: skip
def test_it_declines_with_a_reason(change: dict[str, Any], reason: str) -> None:
    assert reason in str(convolution_triton.supports(Call(**(operands() | change)).facts()))
