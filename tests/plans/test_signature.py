"""The line of a call: what decides its time is in it, and nothing else."""

from __future__ import annotations

import importlib
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from glide_fast.ops.case import cases_of, fake_calls
from glide_fast.ops.convolution.packed_weight import PackedWeight, why_not
from glide_fast.plans.signature import layout_of, shapes, signature

OPS = ["convolution", "group_norm_act", "guided_step", "masked_attention", "resample", "text_attention"]


def norm(**changed: Any) -> Any:
    from glide_fast.ops.group_norm_act.arguments import Call

    x = torch.zeros(2, 8, 4, 4).to(memory_format=torch.channels_last)
    given = {"x": x, "weight": torch.zeros(8), "bias": torch.zeros(8), "groups": 2}
    return Call(**given | changed)


def test_a_call_in_a_line() -> None:
    film = torch.zeros(2, 32)
    call = norm(scale=film[:, :8], shift=film[:, 8:16], silu=True, eps=1e-3)
    assert signature(call) == (
        "x float32 2x8x4x4 channels-last, weight float32 8, bias float32 8, scale float32 2x8 gaps, "
        "shift float32 2x8 gaps, groups 2, silu"
    )


def test_what_decides_speed_is_told_apart() -> None:
    x = torch.zeros(2, 8, 4, 4)
    last = x.to(memory_format=torch.channels_last)
    film = torch.zeros(2, 8)
    different = [
        norm(),
        norm(x=x),
        norm(x=last.bfloat16()),
        norm(weight=torch.zeros(8).half(), bias=torch.zeros(8).half()),
        norm(scale=film, shift=film),
        norm(scale=film.half(), shift=film.half()),
        norm(scale=torch.zeros(2, 32)[:, :8], shift=film),
        norm(silu=True),
        norm(groups=4),
        norm(residual=last),
        norm(residual=last, keep_sum=True),
        norm(x2=last, weight=torch.zeros(16), bias=torch.zeros(16)),
        norm(x_bias=torch.zeros(8)),
        norm(x_bias=torch.zeros(8).half()),
        norm(resample="mean_2x2"),
        norm(out_dtype=torch.float64),
    ]
    assert len({signature(call) for call in different}) == len(different)
    assert len({(call.facts(), shapes(call)) for call in different}) == len(different)


def test_what_decides_no_speed_is_left_out() -> None:
    assert signature(norm(eps=1e-3)) == signature(norm())
    wide, wider = (torch.zeros(2, width)[:, 8:16] for width in (32, 64))
    assert signature(norm(scale=wide, shift=wide)) == signature(norm(scale=wider, shift=wider))
    tables = []
    for rows in (27, 100):
        (call, *_) = (
            call for call in fake_calls("guided_step", torch.float32, "cpu") if call.seeds is not None
        )
        with FakeTensorMode(allow_non_fake_inputs=True):
            call.tensors = tuple(torch.empty(rows, 13) if one is call.table else one for one in call.tensors)
            tables.append(signature(call))
    assert tables[0] == tables[1]


def test_layouts() -> None:
    x = torch.zeros(2, 16, 4, 4)
    assert layout_of(x) == "" == layout_of(x[:1]) == layout_of(torch.zeros(()))
    assert layout_of(x.to(memory_format=torch.channels_last)) == "channels-last"
    assert layout_of(x[:, :, :2]) == "gaps"
    assert layout_of(x.transpose(0, 1)) == "order 1023"
    assert layout_of(torch.zeros(2, 5, 16).transpose(1, 2)) == "order 021"
    assert layout_of(torch.zeros(1, 5, 16).transpose(1, 2)) == "order 21"
    assert layout_of(torch.zeros(4).expand(3, 4)) == "order 10 repeated"
    assert layout_of(torch.zeros(3, 7)[:, :4]) == "gaps odd strides"


@pytest.mark.skipif(why_not(torch.float32) is not None, reason="oneDNN packs no weight here")
def test_a_packed_weight_is_one_layout_however_it_is_kept() -> None:
    weight = torch.zeros(16, 16, 3, 3)
    assert layout_of(PackedWeight.pack(weight, input_shape=(1, 16, 8, 8))) == "packed"


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cases_that_differ_have_lines_that_differ(op: str, device: str) -> None:
    """Those that have the same line are the same call under two names."""
    lines = defaultdict(set)
    describe = cases_of(op).describe
    check = importlib.import_module(f"glide_fast.ops.{op}.arguments").check_arguments
    for call in fake_calls(op, torch.bfloat16, device):
        with FakeTensorMode(allow_non_fake_inputs=True):
            if op != "guided_step":  # its check looks at memory, which these tensors have not
                check(call)
            line = signature(call)
        assert len(line) < 1000 and line.isprintable()
        lines[line].add(describe(call))
    assert all(len(described) == 1 for described in lines.values())
