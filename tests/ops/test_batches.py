"""A sample is the same in every batch, bit for bit, from each kernel for CPUs that a step runs, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from glide_fast.ops import group_norm_act, native, text_attention
from glide_fast.ops.backends import force
from glide_fast.ops.convolution import convolution, packed_weight, winograd_weight
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.resample import resample

COUNT = 8
Made = Callable[[slice], Any]


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def drawn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))
    made = values.to(dtype)
    return made.to(memory_format=torch.channels_last) if len(shape) == 4 else made


def calls(dtype: torch.dtype) -> Iterator[tuple[str, str, Made]]:
    """Op, backend, and the result for some of the samples."""
    x, skip = drawn(COUNT, 64, 16, 16, dtype=dtype), drawn(COUNT, 32, 16, 16, dtype=dtype)
    affine = drawn(2, 96, dtype=torch.float32)
    film = drawn(2, COUNT, 96, dtype=torch.float32)
    if native.load() is not None:
        yield (
            "group_norm_act",
            "cpu",
            lambda part: group_norm_act(
                x[part], *affine, 32, scale=film[0, part], shift=film[1, part], silu=True, x2=skip[part]
            ),
        )
        qkv, text = drawn(COUNT, 3 * 64, 80, dtype=dtype), drawn(COUNT, 2 * 64, 24, dtype=dtype)
        packed = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (qkv, text)]
        yield "text_attention", "cpu", lambda part: text_attention(packed[0][part], 2, packed[1][part])
        yield "resample", "cpu", lambda part: resample(x[part], "mean_2x2")
    bias, residual = drawn(96, dtype=dtype), drawn(COUNT, 96, 16, 16, dtype=dtype)
    three, one = drawn(96, 64, 3, 3, dtype=dtype), drawn(96, 64, 1, 1, dtype=dtype)
    if packed_weight.why_not(dtype) is None:
        for weight in (three, one):
            held = PackedWeight.pack(weight, input_shape=x.shape)
            yield (
                "convolution",
                "onednn",
                lambda part, held=held: convolution(x[part], held, bias, residual=residual[part]),
            )
        strided = PackedWeight.pack(three, input_shape=x.shape, stride=2)
        yield "convolution", "onednn", lambda part: convolution(x[part], strided, bias, stride=2)
    if winograd_weight.why_not(dtype, 64, 96, winograd_weight.WINDOW, 16) is None:
        tiled = PackedWeight.pack(three, input_shape=x.shape, tile=True)
        yield (
            "convolution",
            "winograd",
            lambda part: convolution(x[part], tiled, bias, residual=residual[part]),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_is_the_same_in_every_batch(dtype: torch.dtype, threads: int) -> None:
    for op, backend, made in calls(dtype):
        with force(**{op: backend}):
            together = made(slice(COUNT))
            for part in (slice(0, 1), slice(5, 6), slice(0, 2), slice(3, 6)):
                assert torch.equal(made(part), together[part]), f"{op} [{backend}], samples {part}"
