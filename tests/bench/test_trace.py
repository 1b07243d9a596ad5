"""A GPU's trace: whose kernel is whose.

``gpu_trace.json`` has two steps as torch's profiler writes them on an H100 (categories, fields and numbers of calls are
Kineto's; the times are chosen). In the second step kernels of cuDNN, cuBLAS and Triton take half as long again.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from glide_fast.bench.trace import PREFIX, STEP, Elsewhere, Trace

FILE = Path(__file__).parent / "gpu_trace.json"
ALIKE, SLOWED = 37, 73
"""Microseconds, in the first step, of the kernels that take as long in the second, and of those that do not."""


def us(microseconds: float) -> Any:
    return pytest.approx(microseconds * 1e-6, rel=1e-9)


@pytest.fixture
def events() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(FILE.read_text())["traceEvents"]
    return found


def by_op(trace: Trace) -> dict[str, float]:
    return {name.removeprefix(PREFIX).split(" float16")[0]: seconds for name, seconds in trace.device.items()}


def test_every_kernel_is_of_the_call_that_launched_it() -> None:
    found = by_op(Trace.read(FILE))
    assert found.pop("step") == us(ALIKE + SLOWED * 1.25 + 1.5)
    assert found == {
        "group_norm_act [cuda] 2x192x64x64 + FiLM, SiLU": us(
            30
        ),  # two calls, of our own library: no torch op
        "text_attention [triton] 2x3 heads of 64, 1024 queries, 1024 + 128 of text keys": us(10 * 1.25),
        "convolution [cudnn] 2x192x64x64 to 192, 3x3": us(1 + 22 * 1.25),  # with the memset of its workspace
        "linear [torch] 2048x384 to 384 + residual": us(10 * 1.25),  # its second kernel on another stream
        "upsampled_convolution [by_places] 2x384x32x32 to 384": us(4 * 1.25),  # without that of the op in it
        "convolution [cudnn] 2x384x32x32 to 384, 3x3": us(16 * 1.25),
        "resample [triton] 2x192x64x64, nearest_x2": us(8 * 1.25),  # a graph: one launch, two kernels
        "guided_step [cuda] 1x3x64x64, guided": us(
            6
        ),  # began before its call, and after its step, by the clocks
    }


def test_what_no_call_launched_is_the_rest_of_the_step() -> None:
    trace = Trace.read(FILE)
    copied = 3 * 1.25
    assert trace.unlaunched == us(1.5)
    ops = sum(seconds for name, seconds in trace.device.items() if name != STEP)
    # Neither the memset before the first step nor another thread's kernels.
    assert trace.device[STEP] - ops == us(copied + trace.unlaunched * 1e6)


def test_what_other_threads_launch_during_a_step_is_counted_apart(events: list[dict[str, Any]]) -> None:
    assert Trace.read(FILE).elsewhere == Elsewhere(1, us(7))
    marked = next(event for event in events if event["name"] == STEP)
    # A second kernel in one of the two steps only: no launch is rounded away.
    launch = next(
        event for event in events if event.get("tid") == 4377 and event.get("cat") == "cuda_runtime"
    )
    kernel = next(
        event
        for event in events
        if event.get("cat") == "kernel" and event["args"]["correlation"] == launch["args"]["correlation"]
    )
    more = [
        launch | {"ts": marked["ts"] + 100, "args": {"correlation": 9001}},
        kernel | {"args": {"correlation": 9001}, "dur": 5.0},
    ]
    found = Trace.parse([*events, *more])
    assert found.elsewhere == Elsewhere(2, us(7 + 5 / 2))
    assert (found.device, found.kernels) == (Trace.read(FILE).device, Trace.read(FILE).kernels)
    # Neither what is launched by the steps' own thread outside of them, nor by another thread then.
    alone = [event for event in events if event.get("tid") != 4377]
    before = [event | {"ts": marked["ts"] - 1000} if event is more[0] else event for event in more]
    assert Trace.parse([*alone, *before]).elsewhere == Elsewhere(0, 0.0)


def test_kernels_are_those_of_the_steps() -> None:
    kernels = {kernel.name.split("(")[0][:40]: kernel for kernel in Trace.read(FILE).kernels}
    assert not any("vectorized_elementwise" in name for name in kernels)
    assert kernels["attend"].launches == 1 and kernels["attend"].seconds == us(12.5)
    assert kernels["resize"].launches == 2 and kernels["resize"].seconds == us(10)
    assert kernels["Memset "].launches == 1 and kernels["Memset "].seconds == us(1)
    # A fill has no name that says whose it is; a copy that no op asked for has nothing to add.
    assert kernels["Memset "].name == "Memset (Device), convolution [cudnn] 2x192x64x64 to 192, 3x3 float16"
    assert any(name.startswith("Memcpy DtoD") for name in kernels)


def test_the_hosts_time_is_that_of_the_marks() -> None:
    trace = Trace.read(FILE)
    assert trace.host[STEP] == us(700)
    assert sum(s for name, s in trace.host.items() if "group_norm_act" in name) == us(60)


def test_the_order_in_the_file_says_nothing(events: list[dict[str, Any]]) -> None:
    random.Random(0).shuffle(events)
    assert Trace.parse(events) == Trace.read(FILE)


def test_clocks_may_disagree_by_a_little(events: list[dict[str, Any]]) -> None:
    """Launches are recorded by CUPTI's clock, marks by torch's."""
    for moved in (-2.5, 2.5):
        late = [
            event | {"ts": event["ts"] + moved} if str(event.get("cat")).startswith("cuda_") else event
            for event in events
        ]
        assert Trace.parse(late) == Trace.read(FILE)


def test_a_lost_launch_is_told_and_its_kernel_counted(events: list[dict[str, Any]]) -> None:
    kept = [event for event in events if event["name"] != "cuLaunchKernelEx"]
    assert len(kept) == len(events) - 4
    trace = Trace.parse(kept)
    assert not any("text_attention" in name for name in trace.device)
    assert trace.unlaunched == us(1.5 + (10 + 4) * 1.25)
    assert trace.device[STEP] == us(ALIKE + SLOWED * 1.25 + 1.5)


def test_a_trace_of_a_cpu_has_no_kernels(events: list[dict[str, Any]]) -> None:
    trace = Trace.parse(event for event in events if event.get("cat") == "user_annotation")
    assert trace.kernels == () and trace.device == {STEP: 0.0} and trace.host == Trace.read(FILE).host
