"""group_norm_act's CUDA kernels, run on the host, against fp64: both variants, every option, poisoned outputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support import cuda_host

from glide_fast.ops.group_norm_act import native_arguments
from glide_fast.ops.group_norm_act.arguments import Call
from glide_fast.ops.group_norm_act.cuda import choices as cuda_plans

HALF_UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
DTYPES = list(HALF_UNIT)
HOPPER = {"capability": 9, "shared_limit": 232448, "multiprocessors": 132}
SMALL = {
    "capability": 9,
    "shared_limit": 30000,
    "multiprocessors": 64,
}  # so that few rows need several blocks
AMPERE = {"capability": 8, "shared_limit": 166912, "multiprocessors": 108}


def case(
    n: int,
    lines: tuple[int, int],
    channels: int,
    dtype: torch.dtype,
    *,
    film: bool = False,
    skip: int = 0,
    residual: bool = False,
    x_bias: bool = False,
    mean: float = 0.0,
    std: float = 1.0,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Arguments with activations as [N, H, W, C]; `skip` of the channels are the second input's."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    arguments = {"x": (normal(n, *lines, channels - skip) * std + mean).to(dtype)}
    if skip:
        arguments["x2"] = (normal(n, *lines, skip) * std + mean).to(dtype)
    if residual:
        arguments["residual"] = normal(n, *lines, channels - skip).to(dtype)
    if x_bias:
        arguments["x_bias"] = normal(channels - skip).to(torch.float32 if seed % 2 else dtype)
    arguments |= {"weight": 1 + 0.5 * normal(channels), "bias": normal(channels).to(dtype)}
    if film:
        arguments["scale"], arguments["shift"] = normal(n, channels).to(dtype), normal(n, channels)
    return arguments


def exact_sum(a: dict[str, torch.Tensor]) -> torch.Tensor:
    """What is normalised of x's channels: every bit of it is determined."""
    total = a["x"].float()
    for name in ("x_bias", "residual"):
        if name in a:
            total = total + a[name].float()
    return total.to(a["x"].dtype)


def exact(
    a: dict[str, torch.Tensor], groups: int, silu: bool, resample: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The result in fp64, and the sum; [N, H, W, C]."""
    total = exact_sum(a)
    whole = torch.cat([total, a["x2"]], dim=-1) if "x2" in a else total
    y = F.group_norm(whole.double().movedim(-1, 1), groups, a["weight"].double(), a["bias"].double())
    if "scale" in a:
        y = y * (1 + a["scale"].double()[:, :, None, None]) + a["shift"].double()[:, :, None, None]
    if silu:
        y = F.silu(y)
    if resample == 1:
        y = F.interpolate(y, scale_factor=2)
    if resample == 2:
        y = F.avg_pool2d(y, 2)
    return y.movedim(1, -1), total


def request(
    a: dict[str, torch.Tensor],
    groups: int,
    *,
    silu: bool = False,
    resample: int = 0,
    write_sum: bool = False,
    wide: bool = False,
    windows: bool = False,
    **others: Any,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The buffers of a call, outputs full of NaN, and its other values."""
    n, height, width, first = a["x"].shape
    dtype, channels = a["x"].dtype, len(a["weight"])
    out_dtype = torch.float32 if wide else dtype
    grown = {0: (height, width), 1: (2 * height, 2 * width), 2: (height // 2, width // 2)}[resample]
    places = (9,) if windows else ()
    buffers = {**a, "y": torch.full((n, *grown, *places, channels), math.nan, dtype=out_dtype)}
    if write_sum:
        buffers["sum"] = torch.full_like(a["x"], math.nan)
    values: dict[str, Any] = {
        "dtype": cuda_host.TYPE_CODES[dtype], "samples": n, "rows": height * width, "channels": channels,
        "groups": groups, "width": width, "x_channels": first, "eps": 1e-5, "silu": silu, "resample": resample,
        "windows": windows, **({"out_dtype": cuda_host.TYPE_CODES[out_dtype]} if wide else {}), **others,
    }  # fmt: skip
    for name in ("x", "x2", "residual", "sum", "y"):
        if name in buffers:
            rows = buffers[name].shape[1] * buffers[name].shape[2]
            values[f"{name}.row_stride"] = buffers[name].shape[3:].numel()
            values[f"{name}.sample_stride"] = rows * buffers[name].shape[3:].numel()
    for name in ("x_bias", "weight", "bias", "scale", "shift"):
        if name in a:
            values[f"{name}.dtype"] = cuda_host.TYPE_CODES[a[name].dtype]
            values[f"{name}.sample_stride"] = channels if a[name].dim() == 2 else 0
    return buffers, values


def run(
    program: Path,
    a: dict[str, torch.Tensor],
    groups: int,
    *,
    variant: str = "",
    write_sum: bool = False,
    **others: Any,
) -> tuple[dict[str, int], torch.Tensor, torch.Tensor | None]:
    """The plan, the result (fp32 if ``wide``), and the sum where it was asked for; outputs hold NaN before."""
    buffers, values = request(a, groups, write_sum=write_sum, **others)
    values |= {"variant": variant} if variant else {}
    results = ("y", "sum") if write_sum else ("y",)
    said, out = cuda_host.run(program, "group_norm_act", buffers, results, **values)
    words = said.split()
    plan = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    return plan, out["y"].view(buffers["y"].shape), out["sum"].view(a["x"].shape) if write_sum else None


def check(a: dict[str, torch.Tensor], y: torch.Tensor, truth: torch.Tensor) -> None:
    """Half a unit of the last place for the one rounding, and what fp32 statistics cost beside the mean they are of."""
    dtype = y.dtype
    x = exact_sum(a).double()
    offset = float(x.mean().abs() / x.std(unbiased=False).clamp(min=1e-3)) if x.numel() > 1 else 0.0
    gain = float((1 + a["scale"].double()).abs().max()) if "scale" in a else 1.0
    gain *= float(a["weight"].double().abs().max())
    fp32 = 2.0**-24 * (24 + 6 * gain * (4 + offset))
    bound = (
        HALF_UNIT[dtype] * 1.01 if dtype != torch.float32 else 0.0
    ) * truth.abs() + fp32 * truth.abs().clamp(min=1)
    if dtype == torch.float16:
        bound = bound + 2.0**-25  # half a unit of the subnormal numbers
    assert not y.isnan().any()
    excess = (y.double() - truth).abs() - bound
    assert float(excess.max()) <= 0, f"{float(excess.max()):.3g} over the bound"


def as_windows(y: torch.Tensor) -> torch.Tensor:
    """The neighbourhood of each position, borders zero: [N, H, W, C] to [N, H, W, 9, C]."""
    h, w = y.shape[1:3]
    padded = F.pad(y, (0, 0, 1, 1, 1, 1))
    return torch.stack([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], dim=3)


@pytest.mark.parametrize(
    ("groups", "width", "lines", "n", "every"),
    [(16, 6, (8, 8), 1, 13), (4, 36, (3, 7), 1, 7), (4, 24, (4, 8), 1, 7)],
)
@pytest.mark.parametrize("options", ["once", "windows", "mean"])
def test_plans_are_right(
    cuda_program: Path,
    groups: int,
    width: int,
    lines: tuple[int, int],
    n: int,
    every: int,
    options: str,
) -> None:
    """One of ``every`` few candidates, another one for each shape and option."""
    if options == "mean" and lines[0] % 2:
        lines = (4, 6)
    resample = 2 if options == "mean" else 0
    a = case(
        n, lines, groups * width, torch.float16, film=True, residual=True, x_bias=True, mean=2.3, std=0.5
    )
    buffers, values = request(
        a, groups, silu=True, resample=resample, windows=options == "windows", overlap=2, **HOPPER
    )
    # A fibre is slow: large clusters of few threads, and many threads without a cluster.
    small = [
        one for one in cuda_plans(groups * width, groups, 2) if one[2] * one[3] <= 2048 and one[3] != 192
    ]
    choices = [one for kind in (0, 1) for one in small if one[0] == kind][len(options) % every :: every]
    results = cuda_host.run_choices(cuda_program, buffers, choices, **values)
    assert {choice[0] for choice in results} == {0, 1}
    assert options == "mean" or {choice[4] for choice in results if choice[0]} == {0, 1}
    truth = exact(a, groups, True, resample)[0]
    truth = as_windows(truth) if options == "windows" else truth
    for choice, y in results.items():
        try:
            check(a, y.view(truth.shape), truth)
        except AssertionError as error:
            raise AssertionError(f"{choice}: {error}") from error


@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
@pytest.mark.parametrize("resample", [0, 1, 2])
@pytest.mark.parametrize("wide", [False, True])
def test_windows(cuda_program: Path, variant: str, resample: int, wide: bool) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        a = case(2, (4, 6), 96, dtype, film=True, skip=48, x_bias=True)
        _, y, _ = run(
            cuda_program,
            a,
            16,
            silu=True,
            resample=resample,
            windows=True,
            wide=wide,
            variant=variant,
            **SMALL,
        )
        check(a, y, as_windows(exact(a, 16, True, resample)[0]))


def test_windows_of_single_elements(cuda_program: Path) -> None:
    a = case(1, (3, 2), 33, torch.float16)
    plan, y, _ = run(cuda_program, a, 3, windows=True, **HOPPER)
    assert plan["vector"] == 1
    check(a, y, as_windows(exact(a, 3, False, 0)[0]))


def test_parameters_that_16_bytes_do_not_divide(cuda_program: Path) -> None:
    a = case(2, (4, 4), 96, torch.float16, film=True)
    y, plans = None, []
    for offset in (0, 4):
        buffers, values = request(a, 16, silu=True, **HOPPER)
        buffers["shift"] = torch.cat([torch.full((offset // 4,), math.nan), a["shift"].flatten()])
        said, out = cuda_host.run(
            cuda_program, "group_norm_act", buffers, ("y",), **{**values, "shift.offset": offset}
        )
        y = out["y"].view(2, 4, 4, 96)
        check(a, y, exact(a, 16, True, 0)[0])
        plans.append(said)
    assert "vector 8" in plans[0] and "vector 1" in plans[1]


@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
def test_a_first_value_far_from_all_others(cuda_program: Path, variant: str) -> None:
    """It is the pivot of the first thread's sums."""
    a = case(1, (16, 16), 96, torch.float32)
    a["x"][0, 0, 0] = 1000.0
    truth = exact(a, 16, False, 0)[0]
    _, y, _ = run(cuda_program, a, 16, variant=variant, **HOPPER)
    plain = F.group_norm(a["x"].movedim(-1, 1), 16, a["weight"], a["bias"]).movedim(1, -1)
    allowed = 2 * float((plain - truth).abs().max()) + 2.0**-20
    assert float((y - truth).abs().max()) <= allowed


@settings(max_examples=60)
@given(
    dtype=st.sampled_from(DTYPES),
    groups_width=st.sampled_from(
        [
            (8, 6),
            (4, 12),
            (8, 18),
            (2, 24),
            (4, 30),
            (4, 36),
            (1, 48),
            (4, 7),
            (3, 11),
            (5, 1),
            (2, 16),
            (1, 300),
            (2, 2),
        ]
    ),
    lines=st.sampled_from([(8, 8), (1, 1), (5, 7), (3, 1), (16, 12), (2, 50)]),
    n=st.integers(1, 2),
    film=st.booleans(),
    silu=st.booleans(),
    share=st.sampled_from([0.0, 0.25, 1 / 3, 0.5]),
    residual=st.booleans(),
    x_bias=st.booleans(),
    wide=st.booleans(),
    spread=st.sampled_from([(0.0, 1.0), (2.3, 0.5), (100.0, 0.5)]),
    machine=st.sampled_from([HOPPER, AMPERE]),
    backwards=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_against_fp64(
    cuda_program: Path,
    dtype: torch.dtype,
    groups_width: tuple[int, int],
    lines: tuple[int, int],
    n: int,
    film: bool,
    silu: bool,
    share: float,
    residual: bool,
    x_bias: bool,
    wide: bool,
    spread: tuple[float, float],
    machine: dict[str, int],
    backwards: bool,
    seed: int,
) -> None:
    groups, width = groups_width
    if math.prod(lines) * width == 1:
        lines = (1, 2)
    skip = int(share * groups * width)
    a = case(
        n, lines, groups * width, dtype, film=film, skip=skip, residual=residual, x_bias=x_bias,
        mean=spread[0], std=spread[1], seed=seed,
    )  # fmt: skip
    plan, y, total = run(
        cuda_program, a, groups, silu=silu, backwards=backwards, wide=wide, write_sum=residual, **machine
    )
    assert not plan["one_pass"] or machine is HOPPER
    truth, sum_truth = exact(a, groups, silu, 0)
    check(a, y, truth)
    assert total is None or torch.equal(total, sum_truth)


@pytest.mark.parametrize("dtype", DTYPES)
def test_less_shared_memory_makes_larger_clusters_until_none_will_do(
    cuda_program: Path, dtype: torch.dtype
) -> None:
    """2050 rows divide among no four blocks or more: the last one has fewer."""
    a = case(1, (50, 41), 48, dtype, film=True, mean=2.3, std=0.5)
    truth, sizes, limit = exact(a, 8, True, 0)[0], [], 232448
    while True:
        machine = {"shared_limit": limit, "multiprocessors": 1}
        plan, y, _ = run(cuda_program, a, 8, silu=True, **machine)
        check(a, y, truth)
        if not plan["one_pass"]:
            break
        sizes.append(plan["chunks"])
        limit = plan["shared_bytes"] - 1
    assert sizes[0] == 1 and sizes[-1] == 16 and sizes == sorted(set(sizes))
    with pytest.raises(cuda_host.Failed, match="one_pass needs clusters"):
        run(cuda_program, a, 8, variant="one_pass", **machine)


@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
@pytest.mark.parametrize("resample", [0, 1, 2])
@pytest.mark.parametrize("write_sum", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_skip_residual_bias_and_resampling(
    cuda_program: Path, variant: str, resample: int, write_sum: bool, wide: bool
) -> None:
    for dtype in DTYPES:
        a = case(2, (6, 10), 144, dtype, film=True, skip=48, residual=True, x_bias=True, mean=2.3, std=0.5)
        plan, y, total = run(
            cuda_program,
            a,
            8,
            silu=True,
            resample=resample,
            variant=variant,
            write_sum=write_sum,
            wide=wide,
            **SMALL,
        )
        assert plan["chunks"] > 1
        truth, sum_truth = exact(a, 8, True, resample)
        check(a, y, truth)
        if write_sum:
            assert total is not None
            assert torch.equal(total, sum_truth)


@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
def test_the_order_of_threads_does_not_change_a_bit(cuda_program: Path, variant: str) -> None:
    a = case(1, (16, 20), 96, torch.float16, film=True, residual=True, mean=2.3, std=0.5)
    runs = [
        run(
            cuda_program,
            a,
            16,
            silu=True,
            variant=variant,
            write_sum=True,
            backwards=backwards,
            **SMALL,
        )
        for backwards in (False, True)
    ]
    assert runs[0][0]["chunks"] > 1
    assert torch.equal(runs[0][1], runs[1][1]) and torch.equal(runs[0][2], runs[1][2])


@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
def test_values_near_the_limits_of_fp16(cuda_program: Path, variant: str) -> None:
    a = case(1, (8, 8), 48, torch.float16)
    a["x"] = (torch.rand(a["x"].shape, generator=torch.Generator().manual_seed(1)) * 65000).half()
    a["x"].view(-1)[0] = 65504
    check(a, run(cuda_program, a, 8, variant=variant)[1], exact(a, 8, False, 0)[0])
    a["x"] = torch.full_like(a["x"], 65504)  # no deviation at all: the bias alone is left
    y = run(cuda_program, a, 8, variant=variant)[1]
    assert torch.equal(y, a["bias"].expand_as(y))


def test_the_mean_of_one_value_is_that_value(cuda_program: Path) -> None:
    """To the last bit: the root of eps multiplies what is left by 300."""
    a = case(2, (1, 1), 5, torch.float32)
    assert torch.equal(run(cuda_program, a, 5)[1], a["bias"].expand(2, 1, 1, 5))


@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
def test_a_mean_whose_square_overflows(cuda_program: Path, variant: str) -> None:
    """Some lanes of a warp have no values: their part of the variance is zero, not infinity times zero."""
    a = case(1, (2, 2), 96, torch.bfloat16)
    a["x"] = torch.full_like(a["x"], 2.0**65)
    y = run(cuda_program, a, 16, variant=variant)[1]
    assert torch.equal(y, a["bias"].expand_as(y).to(y.dtype))


@pytest.mark.parametrize("variant", ["one_pass", "two_pass"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_spoil_their_own_group_only(cuda_program: Path, variant: str, value: float) -> None:
    a = case(2, (5, 5), 48, torch.float32)
    a["x"][1, 2, 2, 13] = value  # sample 1, group 2 of 8
    y = run(cuda_program, a, 8, silu=True, variant=variant)[1]
    spoiled = torch.zeros(2, 5, 5, 48, dtype=torch.bool)
    spoiled[1, :, :, 12:18] = True
    assert torch.equal(y.isnan(), spoiled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 5}, "groups must divide channels"),
        ({"dtype": 7}, "a type code is"),
        ({"out_dtype": 2}, "y has the type of x, or fp32"),
        ({"resample": 2, "width": 3}, "width must divide rows"),
        ({"windows": 1, "width": 3}, "width must divide rows"),
        ({"one_pass": 1, "slab": 6, "chunks": 1, "threads": 128}, "a slab is whole groups"),
        ({"one_pass": 1, "slab": 8, "chunks": 1, "threads": 100}, "threads are 32 to 512"),
        ({"one_pass": 1, "slab": 8, "chunks": 2, "threads": 64, "max_cluster": 1}, "no larger ones"),
        ({"slab": 8, "chunks": 1, "threads": 64, "held": 1}, "two_pass holds no rows"),
        ({"one_pass": 1, "slab": 8, "chunks": 1, "threads": 64, "held": 1}, "no rows of fp32"),
        ({"resample": 2, "width": 16}, "even height"),
        ({"variant": "three_pass"}, "a variant is one_pass or two_pass"),
        ({"capability": 8, "variant": "one_pass"}, "one_pass needs clusters"),
        ({"x.row_stride": 2**31}, "less than 2\\^31"),
    ],
)
def test_bad_arguments_are_refused_before_a_launch(
    cuda_program: Path, change: dict[str, Any], message: str
) -> None:
    buffers = {"x": torch.zeros(256), "y": torch.zeros(256), "weight": torch.ones(16), "bias": torch.ones(16)}
    values = {"dtype": 0, "samples": 1, "rows": 16, "channels": 16, "groups": 4, "x_channels": 16, "eps": 1e-5,
              "x.row_stride": 16, "x.sample_stride": 256, "y.row_stride": 16, "y.sample_stride": 256}  # fmt: skip
    with pytest.raises(cuda_host.Failed, match=message):
        cuda_host.run(cuda_program, "group_norm_act", buffers, ("y",), **{**values, **change})


@pytest.mark.parametrize("resample", [None, "nearest_x2", "mean_2x2"])
@pytest.mark.parametrize("out_dtype", [None, torch.float32])
def test_the_backend_hands_every_operand_over(
    cuda_program: Path, resample: str | None, out_dtype: torch.dtype | None
) -> None:
    """What the Python side passes to the library is passed to the host's build of the same kernels instead."""
    a = case(2, (6, 10), 144, torch.float16, film=True, skip=48, residual=True, x_bias=True, seed=1)
    n, h, w, c = a["x"].shape
    wider = torch.full((n, h, w, c + 24), math.nan, dtype=torch.float16)  # x is a slice of its channels
    wider[..., 8 : c + 8] = a["x"]
    film = torch.cat([a["scale"], a["shift"].half()], dim=1)
    a["scale"], a["shift"] = film.chunk(2, dim=1)
    x, x2, residual = (t.movedim(-1, 1) for t in (wider[..., 8 : c + 8], a["x2"], a["residual"]))
    call = Call(
        x, a["weight"], a["bias"], 8, scale=a["scale"], shift=a["shift"], silu=True, x2=x2, residual=residual,
        x_bias=a["x_bias"], keep_sum=True, resample=resample, out_dtype=out_dtype,
    )  # fmt: skip
    result = call.empty_result()
    assert result.sum is not None
    result.y.fill_(math.nan)
    result.sum.fill_(math.nan)
    tensors = {"x": x, "x2": x2, "residual": residual, "sum": result.sum, "y": result.y, "x_bias": a["x_bias"],
               **{name: a[name] for name in ("weight", "bias", "scale", "shift")}}  # fmt: skip
    buffers: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}
    for name, value in native_arguments.arguments(call, result).items():
        if not isinstance(value, tuple):
            values[name] = value
            continue
        storage = tensors[name].untyped_storage()
        buffers[name] = torch.empty(0, dtype=tensors[name].dtype).set_(storage)
        last = ("sample_stride", "row_stride") if tensors[name].dim() == 4 else ("dtype", "sample_stride")
        parts = zip(("offset", *last), (value[0] - storage.data_ptr(), *value[1:]), strict=True)
        values |= {f"{name}.{key}": number for key, number in parts}
    assert set(buffers) == set(tensors)
    _, out = cuda_host.run(cuda_program, "group_norm_act", buffers, ("y", "sum"), **values, **SMALL)
    code = native_arguments.RESAMPLE_CODES[resample]
    truth, total = exact(a, 8, True, code)
    check(a, out["y"].view(truth.shape), truth)
    assert torch.equal(out["sum"].view(total.shape), total)
