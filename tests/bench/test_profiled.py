"""A step taken apart: costs by formula, calls by count, the trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from glide_fast.bench.costs import Cost, cost, linear
from glide_fast.bench.parts.ops import _laid_out_for
from glide_fast.bench.profiled import profile
from glide_fast.bench.settings import Settings
from glide_fast.bench.subject import subjects
from glide_fast.ops import group_norm_act, masked_attention, native, text_attention
from glide_fast.ops.backends import Choice, force, listen
from glide_fast.ops.convolution import convolution
from glide_fast.ops.described import described
from glide_fast.ops.packed_weight import PackedWeight
from glide_fast.ops.resample import resample


def told(call: object) -> tuple[Cost, str]:
    """Cost and description of the call that was made while listening."""
    (choice,) = HEARD
    HEARD.clear()
    return cost(choice), described(choice)


HEARD: list[Choice] = []


def test_costs_count_each_operand_once() -> None:
    x = torch.zeros(2, 8, 4, 4).to(memory_format=torch.channels_last)
    weight = torch.zeros(16, 8, 3, 3)
    with listen(HEARD.append):
        spent = told(convolution(x, weight, torch.zeros(16), residual=torch.zeros(2, 16, 4, 4)))
        assert spent == (
            Cost(4 * (256 + 1152 + 16 + 512 + 512), 2 * 512 * 72),
            "2x8x4x4 to 16, 3x3 + bias, residual",
        )
        spent = told(convolution(x, weight, stride=2))
        assert spent == (Cost(4 * (256 + 1152 + 128), 2 * 128 * 72), "2x8x4x4 to 16, 3x3 /2")
        scales = torch.zeros(2, 8)
        spent = told(group_norm_act(x, scales[0], scales[0], 4, scale=scales, shift=scales, silu=True))
        assert spent[0].bytes == 4 * (2 * 256 + 2 * 8 + 2 * 16) and spent[1] == "2x8x4x4 + FiLM, SiLU"
        spent = told(
            group_norm_act(x, torch.zeros(16), torch.zeros(16), 4, x2=x, resample="nearest_x2", silu=True)
        )
        assert spent[0].bytes == 4 * (2 * 256 + 2 * 16 + 2048)
        assert spent[1] == "2x8x4x4 with 2x8x4x4 + SiLU, nearest_x2"
        _, kept = group_norm_act(x, scales[0], scales[0], 4, residual=x, keep_sum=True)
        spent = told(kept)
        assert spent[0].bytes == 4 * (4 * 256 + 2 * 8) and spent[1] == "2x8x4x4 + residual, kept sum"
        spent = told(text_attention(torch.zeros(2, 24, 6), 2, torch.zeros(2, 16, 3)))
        assert spent == (
            Cost(4 * (288 + 96 + 96), 4 * 2 * 2 * 4 * 6 * 9),
            "2x2 heads of 4, 6 queries, 6 + 3 of text keys",
        )
        q = torch.zeros(1, 5, 8)
        assert told(masked_attention(q, q, q, 2, causal=True)) == (
            Cost(4 * 4 * 40, 4 * 40 * 5 // 2),
            "1x5x8, 2 heads, 5 keys, causal",
        )
        assert told(resample(x, "mean_2x2")) == (Cost(4 * (256 + 64), 256), "2x8x4x4, mean_2x2")
    assert linear(3, 4, 5, 2, added=True) == Cost(2 * (12 + 20 + 30), 120)


@pytest.mark.skipif(
    native.load() is None, reason="the kernels for CPUs are not built: glide_fast._C is missing"
)
def test_winograds_products_are_two_thirds() -> None:
    x = torch.zeros(1, 32, 4, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    weight = torch.zeros(16, 32, 3, 3, dtype=torch.bfloat16)
    packed = PackedWeight.pack(weight, input_shape=x.shape, tile=True)
    with listen(HEARD.append), force(convolution="winograd"):
        convolution(x, packed)
    (call,) = HEARD
    HEARD.clear()
    assert (cost(call), described(call)) == (
        Cost(2 * (1024 + 4608 + 512), 2 * 512 * 32 * 6),
        "1x32x4x8 to 16, 3x3",
    )
    layouts = {name: _laid_out_for(name, call.arguments)[1] for name in call.op.names}
    assert layouts["winograd"] is packed and layouts["onednn"].packed is not None
    assert type(layouts["reference"]) is torch.Tensor and torch.equal(layouts["reference"], weight)


def test_the_roofline_is_the_slower_of_both_limits() -> None:
    assert Cost(100, 10).seconds(10.0, 10.0) == 10.0
    assert Cost(10, 100).seconds(10.0, 10.0) == 10.0


def test_a_step_is_taken_apart(settings: Settings, tmp_path: Path) -> None:
    subject = subjects(settings.models)[0]
    found = profile(subject, settings, tmp_path / "step.json", megabytes=1, side=64)
    assert {item.op for item in found.items} >= {"convolution", "group_norm_act", "text_attention"}
    assert sum(item.calls for item in found.items if item.op == "guided_step") == 1
    assert all(item.seconds > 0 and item.least > 0 for item in found.items)
    assert found.least == pytest.approx(sum(item.least for item in found.items))
    assert 0 <= found.other <= found.profiled
    text = found.table(most=3)
    assert "at the ceilings this step would take" in text and "and " in text and "everything else" in text
    assert {row["op"] for row in found.rows()} == {item.op for item in found.items}
    names = {
        str(event.get("name")) for event in json.loads((tmp_path / "step.json").read_text())["traceEvents"]
    }
    assert any(name.startswith("glide_fast::convolution [") for name in names)
