"""A step taken apart: costs by formula, calls by count, the trace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.onednn import TYPES

from glide_fast.bench.cost import Cost, cost, linear
from glide_fast.bench.parts.ops import _held_by
from glide_fast.bench.profiled import Item, Limits, Profile, profile, taken_apart
from glide_fast.bench.settings import Settings
from glide_fast.bench.subject import subjects
from glide_fast.bench.trace import PREFIX, STEP, Elsewhere, Trace
from glide_fast.errors import BackendError
from glide_fast.ops import group_norm_act, masked_attention, native, text_attention
from glide_fast.ops.backends import Choice, force, listen
from glide_fast.ops.convolution import convolution
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.described import described
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
    layouts = {name: _held_by(name, call.call).weight for name in call.op.names}
    assert layouts["winograd"] is packed and isinstance(layouts["onednn"], PackedWeight) == (
        torch.bfloat16 in TYPES
    )
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
    # The profiler slows a CPU: what is left is left of the step as it runs without.
    parts = sum(item.seconds for item in found.items)
    assert found.other == pytest.approx(max(0.0, found.step - parts))
    shares = [float(row["share"]) for row in found.rows()]
    assert sum(shares) == pytest.approx(parts / max(found.step, parts), abs=1e-4 * len(shares))
    assert found.gap is None and found.warning == ""
    text = found.table(most=3)
    assert "at the ceilings this step would take" in text and "and " in text and "everything else" in text
    assert {row["op"] for row in found.rows()} == {item.op for item in found.items}
    names = {
        str(event.get("name")) for event in json.loads((tmp_path / "step.json").read_text())["traceEvents"]
    }
    assert any(name.startswith("glide_fast::convolution [") for name in names)


RECORDED = Path(__file__).parent / "gpu_trace.json"


def of_a_gpu(step: float, recorded: Trace | None = None) -> Profile:
    """The profile of the recorded trace's steps, with the seconds that a step takes without the profiler."""
    recorded = recorded or Trace.read(RECORDED)
    items = {}
    for mark in recorded.host:
        if mark != STEP:
            op, backend, shape = mark.removeprefix(PREFIX).split(" ", 2)
            items[mark] = Item(op, backend.strip("[]"), shape, torch.float16, 1, Cost(2048, 8))
    limits = Limits(1e9, {torch.float32: 1e9})
    return taken_apart("base", step, limits, items, recorded, torch.device("cuda"))


def test_on_a_gpu_times_are_the_devices() -> None:
    found = of_a_gpu(129.75e-6)
    seconds = {item.op: item.seconds for item in found.items if item.op != "convolution"}
    assert seconds["group_norm_act"] == pytest.approx(30e-6)
    assert seconds["text_attention"] == pytest.approx(12.5e-6)
    assert seconds["guided_step"] == pytest.approx(6e-6)
    assert found.items[0].op == "group_norm_act" and found.items[0].least == pytest.approx(2.048e-6)
    assert found.profiled == pytest.approx(129.75e-6) and found.gap == pytest.approx(0)
    assert found.profiled == pytest.approx(sum(item.seconds for item in found.items) + found.other)
    assert found.kernels[0].launches == 2


def test_a_gap_between_the_parts_and_the_step_is_told() -> None:
    for step, words in ((129.75e-6 * 1.02, ""), (150e-6, "13.5% less than the step"), (100e-6, "29.8% more")):
        found = of_a_gpu(step)
        assert ("the parts add up to" in found.warning) == bool(words) and words in found.warning
        assert found.warning in found.table() and found.table().count("WARNING") == 1  # of the missed launch
        assert {row["warning"] for row in found.rows()} == {found.warning}
        assert {row["gap"] for row in found.rows()} == {f"{found.profiled / step - 1:.4f}"}
        assert {row["profiled_seconds"] for row in found.rows()} == {"0.00012975"}
    assert "1.5 us of kernels whose launch the profiler missed are in everything else" in found.warning


def test_kernels_of_other_threads_are_told_and_explain_what_is_missing() -> None:
    found = of_a_gpu(150e-6)
    (line,) = [
        line for line in found.table().splitlines() if "other threads" in line and "WARNING" not in line
    ]
    assert line.split()[:2] == ["7", "us"] and "1 launch" in line and "in no sum above" in line
    assert "13.5% less than the step" in found.warning
    assert "8.8% less with the 7 us of other threads' kernels" in found.warning
    # They are more than a step's own parts already: nothing is explained by what is left out.
    assert "other threads" not in of_a_gpu(100e-6).warning
    assert {(row["elsewhere_launches"], row["elsewhere_seconds"]) for row in found.rows()} == {("1", "7e-06")}

    alone = replace(Trace.read(RECORDED), elsewhere=Elsewhere(0, 0.0))
    quiet = of_a_gpu(150e-6, alone)
    assert "other threads" not in quiet.table()
    assert "13.5% less than the step" in quiet.warning


def test_a_gpu_of_which_nothing_was_recorded_is_an_error() -> None:
    events = [e for e in json.loads(RECORDED.read_text())["traceEvents"] if e.get("cat") == "user_annotation"]
    with pytest.raises(BackendError, match="CUPTI"):
        of_a_gpu(1e-3, Trace.parse(events))
