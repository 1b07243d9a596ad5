"""group_norm_act's CUDA backend: why it declines, and on a device, its results. tests/csrc runs the kernels without one."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glide_fast.errors import BackendError
from glide_fast.ops import group_norm_act, group_norm_act_cuda, native
from glide_fast.ops.backends import force
from glide_fast.ops.group_norm_act_call import Call, Facts, Result

op = importlib.import_module("glide_fast.ops.group_norm_act")

FACTS = Facts(
    device="cuda", dtype=torch.float16, affine_dtype=torch.float32, film_dtype=torch.float16, alike=True,
    channels_last=True, empty=False, gradients=False, tracing=False, out_dtype=torch.float16,
)  # fmt: skip


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_norm_act_cuda, "why_missing", lambda: None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": "cpu"}, "x is on cpu"),
        ({"dtype": torch.float64}, "x is torch.float64"),
        ({"affine_dtype": torch.float64}, "weight is torch.float64"),
        ({"film_dtype": torch.int32}, "scale is torch.int32"),
        ({"alike": False}, "differ in type"),
        ({"gradients": True}, "gradients are wanted"),
        ({"tracing": True}, "torch.compile is tracing"),
        ({"empty": True}, "no elements"),
        ({"x2": True, "resample": "mean_2x2"}, "x2, resample given"),
        ({"channels_last": False}, "not channels-last"),
    ],
)
def test_it_declines_with_a_reason(built: None, change: dict[str, Any], reason: str) -> None:
    assert group_norm_act_cuda.supports(FACTS) is None
    assert group_norm_act_cuda.supports(FACTS._replace(film_dtype=None)) is None
    assert reason in str(group_norm_act_cuda.supports(FACTS._replace(**change)))


def test_forced_on_a_cpu_it_says_why_not() -> None:
    x = torch.randn(1, 4, 2, 2).to(memory_format=torch.channels_last)
    with force(group_norm_act="cuda"), pytest.raises(BackendError, match="x is on cpu"):
        group_norm_act(x, torch.ones(4), torch.zeros(4), groups=2)


@pytest.mark.parametrize(
    ("cuda", "record", "capabilities", "reason"),
    [
        (False, {"cuda_why_not": "no nvcc found"}, [(9, 0)], "built without CUDA: no nvcc found"),
        (True, {"cuda_targets": ["sm_80", "sm_90a"]}, [(9, 0), (8, 6)], None),
        (
            True,
            {"cuda_targets": ["sm_80", "sm_90a"]},
            [(9, 0), (10, 0)],
            "built for sm_80, sm_90a, not for sm_100",
        ),
        (True, {"cuda_targets": ["sm_80", "sm_100"]}, [(10, 3)], None),
        (True, {"cuda_targets": ["sm_86"]}, [(8, 0)], "not for sm_80"),
        (True, {"cuda_targets": ["sm_80", "sm_90a", "sm_100"]}, [(12, 0)], "not for sm_120"),
    ],
)
def test_a_library_for_other_devices_is_declined(
    monkeypatch: pytest.MonkeyPatch,
    cuda: bool,
    record: dict[str, Any],
    capabilities: list[tuple[int, int]],
    reason: str | None,
) -> None:
    monkeypatch.setattr(native, "load", lambda: SimpleNamespace(**({"cuda": 1} if cuda else {})))
    monkeypatch.setattr(native, "build_record", lambda: record)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device])
    answer = group_norm_act_cuda.why_missing.__wrapped__()
    assert answer is None if reason is None else reason in str(answer)


def device_case(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    n, c = shape[:2]
    x = (torch.randn(shape, generator=generator) * 0.5 + 2.3).to(dtype)
    film = torch.randn(2, n, c, generator=generator).to(dtype)
    tensors = {
        "x": x.to(memory_format=torch.channels_last),
        "weight": 1 + 0.5 * torch.randn(c, generator=generator),
        "bias": torch.randn(c, generator=generator),
        "scale": film[0],
        "shift": film[1],
    }
    return {name: tensor.cuda() for name, tensor in tensors.items()}


def run_on_device(variant: str, a: dict[str, torch.Tensor], out: torch.Tensor | None = None) -> torch.Tensor:
    if reason := group_norm_act_cuda.why_missing():
        pytest.skip(reason)
    if variant == "one_pass" and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("one_pass needs a device with thread-block clusters")
    result = None if out is None else Result(out, None)
    return group_norm_act_cuda.run(Call(**a, groups=32, silu=True), out=result, variant=variant).y


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("variant", "side", "channels"),
    [
        (v, s, c)
        for s, c in ((8, 768), (16, 1152), (32, 384), (64, 192), (64, 576))
        for v in ("one_pass", "two_pass")
    ]
    + [("two_pass", 256, 192), ("one_pass", 128, 192)],
)
def test_glide_shapes_on_a_device(variant: str, side: int, channels: int, dtype: torch.dtype) -> None:
    if variant == "one_pass" and dtype == torch.float32 and side * side * channels > 64 * 64 * 192:
        pytest.skip("does not fit a cluster's shared memory in fp32")
    a = device_case((2, channels, side, side), dtype)
    y = run_on_device(variant, a, out=torch.full_like(a["x"], float("nan")))
    truth = op.reference(**{name: tensor.double() for name, tensor in a.items()}, groups=32, silu=True)
    error = ((y.double() - truth).abs() / truth.abs().clamp(min=1)).max()
    assert float(error) <= {torch.float32: 2e-5, torch.bfloat16: 0.0041, torch.float16: 0.00055}[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
def test_runs_agree_to_the_bit_on_a_device(variant: str) -> None:
    a = device_case((2, 192, 64, 64), torch.float16)
    first = run_on_device(variant, a)
    assert all(torch.equal(first, run_on_device(variant, a)) for _ in range(20))


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
def test_it_can_be_captured_on_a_device(variant: str) -> None:
    a = device_case((2, 192, 32, 32), torch.float16)
    eager = run_on_device(variant, a)
    graph, out = torch.cuda.CUDAGraph(), torch.full_like(a["x"], float("nan"))
    with torch.cuda.graph(graph):
        run_on_device(variant, a, out=out)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, eager)
