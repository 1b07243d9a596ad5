"""group_norm_act's CUDA backend: why it declines, and its results on a device. Without one: test_cuda_on_host.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glide_fast.errors import BackendError
from glide_fast.ops import group_norm_act, native
from glide_fast.ops.backends import force
from glide_fast.ops.group_norm_act import cuda as group_norm_act_cuda
from glide_fast.ops.group_norm_act import native_arguments
from glide_fast.ops.group_norm_act.arguments import Call, Facts, Result
from glide_fast.ops.group_norm_act.reference import reference, reference_sum

FACTS = Facts(
    device="cuda", dtype=torch.float16, affine_dtype=torch.float32, film_dtype=torch.float16, alike=True,
    channels_last=True, empty=False, gradients=False, x_bias_dtype=None,
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
        ({"empty": True}, "no elements"),
        ({"x_bias_dtype": torch.float64}, "x_bias is torch.float64"),
        ({"channels_last": False}, "not channels-last"),
    ],
)
def test_it_declines_with_a_reason(built: None, change: dict[str, Any], reason: str) -> None:
    assert group_norm_act_cuda.supports(FACTS) is None
    assert group_norm_act_cuda.supports(FACTS._replace(film_dtype=None)) is None
    assert group_norm_act_cuda.supports(FACTS._replace(x_bias_dtype=torch.float32)) is None
    assert reason in str(group_norm_act_cuda.supports(FACTS._replace(**change)))


def test_a_plan_that_does_not_fit_is_an_error() -> None:
    library = native.load()
    if library is None or not hasattr(library, "cuda"):
        pytest.skip("the native library was built without CUDA")
    x = torch.zeros(1, 192, 8, 8, dtype=torch.float16).to(memory_format=torch.channels_last)
    call = Call(x, torch.ones(192), torch.ones(192), 32)
    hopper = library.cuda.Device(*group_norm_act_cuda.HOPPER)
    whole = group_norm_act_cuda._whole(call, hopper, {"variant": "two_pass", "threads": 256})
    assert whole in group_norm_act_cuda.plans(call) and whole["threads"] == 256
    for wrong in ({"variant": "three_pass"}, {"tile": 3}, {"slab": 7}):
        with pytest.raises(ValueError, match="plan"):
            group_norm_act_cuda._whole(call, hopper, wrong)


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
    modules = {"GroupNormAct": 1, **({"cuda": 1} if cuda else {})}
    monkeypatch.setattr(native, "load", lambda: SimpleNamespace(**modules))
    monkeypatch.setattr(native, "why_missing", lambda: None)
    monkeypatch.setattr(native, "build_record", lambda: record)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device])
    answer = group_norm_act_cuda.why_missing.__wrapped__()
    assert answer is None if reason is None else reason in str(answer)


def test_the_library_takes_what_the_backend_passes() -> None:
    """The bindings need no device; test_cuda_on_host.py runs the kernels on the same arguments."""
    library = native.load()
    if library is None or not hasattr(library, "cuda"):
        pytest.skip("the native library was built without CUDA")
    x = torch.zeros(2, 96, 8, 8, dtype=torch.float16).to(memory_format=torch.channels_last)
    call = Call(
        x, torch.ones(192), torch.ones(192), 32, scale=torch.ones(2, 192), shift=torch.ones(2, 192), silu=True,
        x2=x, residual=x, x_bias=torch.ones(96), keep_sum=True, resample="mean_2x2", out_dtype=torch.float32,
    )  # fmt: skip
    given = native_arguments.arguments(call, call.empty_result())
    hopper = library.cuda.Device(multiprocessors=132, shared_bytes=232448, max_cluster=16)
    for variant in ("one_pass", "two_pass"):
        plan = library.cuda.plan_group_norm_act(library.GroupNormAct(**given), hopper, variant)
        assert plan.one_pass == (variant == "one_pass")
    for plan in group_norm_act_cuda.plans(call):
        native_plan = group_norm_act_cuda.complete(library.GroupNormAct(**given), hopper, plan)
        assert native_plan.one_pass == (plan["variant"] == "one_pass") and native_plan.vector == 8
    with pytest.raises(ValueError, match="a slab is whole groups"):
        group_norm_act_cuda.complete(library.GroupNormAct(**given), hopper, plan | {"slab": 7})
    wrong = library.GroupNormAct(**given | {"out_dtype": 1})
    with pytest.raises(ValueError, match="y has the type of x, or fp32"):
        library.cuda.plan_group_norm_act(wrong, hopper)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "residual": {"residual": True, "x_bias": True, "keep_sum": True},
    "skip": {"x2": True, "residual": True, "x_bias": True},
    "nearest": {"residual": True, "keep_sum": True, "resample": "nearest_x2"},
    "mean": {"x2": True, "x_bias": True, "keep_sum": True, "resample": "mean_2x2"},
    "fp32 out": {"out_dtype": torch.float32},
}


def device_case(shape: tuple[int, ...], dtype: torch.dtype, options: dict[str, Any] | None = None) -> Call:
    """A call on the device; a third of the channels are x2's where the options name it."""
    options = dict(options or {})
    generator = torch.Generator().manual_seed(0)
    n, c, *lines = shape

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).cuda()

    def activation(channels: int, mean: float) -> torch.Tensor:
        return (normal(n, channels, *lines) * 0.5 + mean).to(dtype).to(memory_format=torch.channels_last)

    second = c // 3 if options.get("x2") else 0
    makers = {
        "x2": lambda: activation(second, 2.3),
        "residual": lambda: activation(c - second, 0.0),
        "x_bias": lambda: normal(c - second).to(dtype),
    }
    options |= {name: make() for name, make in makers.items() if options.get(name)}
    scale, shift = normal(2, n, c).to(dtype)
    x, weight, bias = activation(c - second, 2.3), 1 + 0.5 * normal(c), normal(c)
    return Call(x, weight, bias, 32, scale=scale, shift=shift, silu=True, **options)


def poisoned(call: Call) -> Result:
    """Memory for the result that holds NaN."""
    result = call.empty_result()
    result.y.fill_(float("nan"))
    if result.sum is not None and call.adds:
        result.sum.fill_(float("nan"))
    return result


def run_on_device(variant: str, call: Call, out: Result | None = None) -> Result:
    if reason := group_norm_act_cuda.why_missing():
        pytest.skip(reason)
    if variant == "one_pass" and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("one_pass needs a device with thread-block clusters")
    return group_norm_act_cuda.run(
        call, out=poisoned(call) if out is None else out, plan={"variant": variant}
    )


def check(call: Call, got: Result) -> None:
    """y against fp64, the sum to the bit."""
    total = reference_sum(call.x, call.residual, call.x_bias)
    assert (got.sum is not None) == call.keep_sum
    assert got.sum is None or torch.equal(got.sum, total)
    tensors = {
        "x": total,
        **{name: getattr(call, name) for name in ("weight", "bias", "scale", "shift", "x2")},
    }
    wide = {name: tensor.double() for name, tensor in tensors.items() if tensor is not None}
    truth = reference(**wide, groups=call.groups, silu=call.silu, resample=call.resample)
    error = ((got.y.double() - truth).abs() / truth.abs().clamp(min=1)).max()
    assert float(error) <= {torch.float32: 2e-5, torch.bfloat16: 0.0041, torch.float16: 0.00055}[got.y.dtype]


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
    call = device_case((2, channels, side, side), dtype)
    check(call, run_on_device(variant, call))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
def test_what_is_around_the_norm_on_a_device(
    variant: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    call = device_case((2, 576, 32, 32), dtype, options)
    check(call, run_on_device(variant, call))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2, 768, 8, 8), (2, 192, 64, 64), (1, 576, 32, 32)])
@pytest.mark.parametrize("options", ["plain", "residual", "mean"])
def test_plans_on_a_device(shape: tuple[int, ...], options: str) -> None:
    """The likeliest candidates, and some of all others."""
    call = device_case(shape, torch.float16, OPTIONS[options])
    if reason := group_norm_act_cuda.why_missing():
        pytest.skip(reason)
    plans = group_norm_act_cuda.plans(call)
    for plan in plans[:8] + plans[8::11]:
        for overlap in (False, True):
            check(call, group_norm_act_cuda.run(call, out=poisoned(call), plan=plan, overlap=overlap))
    assert torch.equal(group_norm_act_cuda.run(call).y, group_norm_act_cuda.run(call, plan=plans[0]).y)


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
def test_runs_agree_to_the_bit_on_a_device(variant: str, options: dict[str, Any]) -> None:
    call = device_case((2, 192, 64, 64), torch.float16, options)
    first = run_on_device(variant, call)
    for _ in range(20):
        again = run_on_device(variant, call)
        assert torch.equal(first.y, again.y)
        assert first.sum is None or (again.sum is not None and torch.equal(first.sum, again.sum))


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
def test_it_can_be_captured_on_a_device(variant: str, options: dict[str, Any]) -> None:
    call = device_case((2, 192, 32, 32), torch.float16, options)
    eager, out = run_on_device(variant, call), poisoned(call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run_on_device(variant, call, out)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out.y, eager.y)
    assert out.sum is None or (eager.sum is not None and torch.equal(out.sum, eager.sum))
