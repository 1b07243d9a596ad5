"""guided_step's C++ kernel against the reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import step_bound, steps

from glide_fast.diffusion.noise import philox_normal
from glide_fast.diffusion.rules import RULES
from glide_fast.errors import BackendError, InvalidInputError
from glide_fast.ops import guided_step, native
from glide_fast.ops.backends import force
from glide_fast.ops.guided_step import Column, Step
from glide_fast.ops.guided_step import cpu as guided_step_cpu
from glide_fast.ops.guided_step.arguments import Call
from glide_fast.ops.guided_step.reference import reference

library = native.load()
needs_library = pytest.mark.skipif(library is None, reason=str(native.why_missing()))
ISAS = [] if library is None else library.isas()
TOLERANCE = 1e-5

shapes = st.one_of(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.just(1), st.just(3), st.integers(10, 30), st.integers(10, 30)),
)


def run(isa: str = "", **arguments: Any) -> Step:
    return guided_step_cpu.run(Call(**arguments), isa=isa)


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60)
@given(
    shape=shapes,
    rule=st.sampled_from(list(RULES)),
    row=st.sampled_from([0, 1, 5, steps.STEPS - 1]),
    guided=st.booleans(),
    known=st.booleans(),
    score=st.booleans(),
    noise=st.sampled_from(["seeds", "tensor", "none"]),
    model_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    channels_last=st.booleans(),
    row_of_each=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_reference(isa: str, **case: Any) -> None:
    arguments = steps.arguments(**case)
    got = run(**arguments, out=steps.poisoned(arguments["x"], arguments.get("history")), isa=isa)
    assert steps.worst(got, arguments) <= TOLERANCE
    assert step_bound.excess(got, arguments) <= 1


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stream", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("size", [(3, 64, 64), (1, 1, 1), (3, 5, 7)])
def test_the_noise_is_that_of_the_definition(isa: str, stream: int, size: tuple[int, ...]) -> None:
    """A table of one row that adds noise to nothing shows it bare."""
    seeds = torch.tensor([0, 7, 2**40 + 3, 2**63 - 1])
    zeros = torch.zeros(4, *size)
    table = torch.zeros(8, Column.COUNT)
    table[:, Column.NOISE] = 1
    model_out = torch.zeros(4, 2 * size[0], *size[1:])
    got = run(
        isa,
        x=zeros,
        model_out=model_out,
        table=table,
        step=torch.tensor([0, 7, 3, 3]),
        seeds=seeds,
        stream=stream,
    ).x
    want = philox_normal(seeds, torch.tensor([0, 7, 3, 3]), size, stream=stream)
    assert float((got - want).abs().max()) <= 5e-6
    if size == (3, 64, 64):
        assert got.abs().max() > 3.5 and abs(float(got.var()) - 1) < 0.02


@needs_library
@pytest.mark.parametrize("isa", ISAS)
def test_the_variance_over_its_whole_range(isa: str) -> None:
    """The exponential, from a variance of e^-160 to one of e^160, and NaN."""
    v = torch.linspace(-160, 160, 4001)
    v[7] = torch.nan
    table = torch.zeros(1, Column.COUNT)
    table[0, Column.MAX_LOG], table[0, Column.MIN_LOG], table[0, Column.LEARNED_NOISE] = 1, -1, 1
    x = torch.zeros(1, 1, 1, 4001)
    out = torch.cat([x, v.view_as(x)], 1)
    noise = torch.ones_like(x)
    got = run(isa, x=x, model_out=out, table=table, step=torch.tensor(0), noise=noise).x.flatten()
    want = torch.exp(v.double() / 2)
    assert got[7].isnan()
    # The exponent v / 2 is rounded twice, and the result errs as much as it.
    excess = ((got - want) / want).abs() - 2.0**-24 * v.abs()
    assert float(excess.nan_to_num().max()) <= 5e-7


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 5, 7)])
@pytest.mark.parametrize("isa", ISAS)
def test_the_next_input_is_the_next_state(
    isa: str, dtype: torch.dtype, channels_last: bool, shape: tuple[int, ...]
) -> None:
    arguments = steps.arguments(shape)
    inputs = steps.next_inputs(shape, 2, dtype, channels_last)
    got = run(**arguments, inputs=inputs, isa=isa)
    for half in inputs.chunk(2):
        assert torch.equal(half, got.x.to(dtype))


@needs_library
@pytest.mark.parametrize("rule", ["ddpm", "plms", "dpm++2m"])
def test_in_place(rule: str) -> None:
    arguments = steps.arguments((2, 3, 9, 5), rule=rule, known=True)
    want = run(**arguments)
    x, history = arguments["x"], arguments.get("history")
    got = run(**arguments, out=Step(x, torch.empty_like(x), history))
    assert got.x is x and got.history is history
    for a, b in zip(got, want, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@needs_library
@pytest.mark.parametrize("shape", [(3, 3, 64, 64), (1, 3, 33, 31)])
def test_threads_and_batch_do_not_change_a_bit(shape: tuple[int, ...]) -> None:
    arguments = steps.arguments(shape, rule="plms", known=True)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(**arguments).x)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])
    for i in range(shape[0]):
        one = {
            name: value[i : i + 1] if name in ("x", "seeds", "known", "known_mask") else value
            for name, value in arguments.items()
        }
        one["model_out"] = arguments["model_out"][i :: shape[0]]
        one["history"] = arguments["history"][:, i : i + 1].contiguous()
        assert torch.equal(run(**one).x, results[0][i : i + 1])


@needs_library
def test_a_guidance_scale_in_memory() -> None:
    arguments = steps.arguments((2, 3, 6, 6), row=3)
    for scale in (torch.tensor(3.0), torch.tensor([3.0]), torch.tensor([1.5, 3.0])):
        changed = {**arguments, "guidance_scale": scale}
        with force(guided_step="cpu"):
            got = guided_step(**changed)
        assert steps.worst(got, changed) <= TOLERANCE
    assert torch.equal(
        run(**{**arguments, "guidance_scale": torch.tensor(3.0)}).x,
        run(**arguments).x,
    )


@needs_library
@pytest.mark.parametrize("isa", ISAS)
def test_nothing_is_written_outside_the_results(isa: str) -> None:
    shape = (2, 3, 5, 7)
    arguments = steps.arguments(shape)
    size = arguments["x"].numel()
    arenas = [torch.full((64 + size + 64,), 7.0) for _ in range(2)]
    out = Step(*(arena[64 : 64 + size].view(shape) for arena in arenas), None)
    run(**arguments, out=out, isa=isa)
    for arena in arenas:
        assert (arena[:64] == 7).all() and (arena[-64:] == 7).all()
    assert steps.worst(out, arguments) <= TOLERANCE


@needs_library
def test_nan_stays_where_it_is() -> None:
    arguments = steps.arguments((2, 3, 8, 8), noise="none")
    arguments["model_out"][1, 2, 3, 3] = torch.nan
    got = run(**arguments)
    spoiled = torch.zeros(2, 3, 8, 8, dtype=torch.bool)
    spoiled[1, 2, 3, 3] = True
    assert torch.equal(got.x.isnan(), spoiled) and torch.equal(got.x0.isnan(), spoiled)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x": torch.zeros(1, 3, 4, 4, dtype=torch.float64)}, "x is torch.float64"),
        (
            {"x": torch.zeros(1, 3, 4, 4).to(memory_format=torch.channels_last)},
            "x is not contiguous",
        ),
        ({"model_out": torch.zeros(1, 6, 4, 4).half()}, "model_out is torch.float16"),
        ({"model_out": torch.zeros(1, 6, 4, 8)[..., :4]}, "not evenly spaced"),
        ({"model_out": torch.zeros(1, 6, 4, 4, requires_grad=True)}, "gradients are wanted"),
        ({"noise": torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)}, "noise is torch.bfloat16"),
        ({"step": torch.tensor(1, dtype=torch.int32)}, "step is torch.int32"),
        ({"inputs": torch.zeros(1, 3, 4, 4).half()}, "inputs is torch.float16"),
    ],
)
def test_it_declines_with_a_reason(change: dict[str, torch.Tensor], reason: str) -> None:
    arguments = {**steps.arguments((1, 3, 4, 4), guided=False, noise="tensor"), **change}
    explanation = steps.op.OP.explain(Call(**arguments).facts())
    assert reason in str(explanation.verdicts[0].reason)
    with force(guided_step="cpu"), pytest.raises(BackendError, match=reason):
        guided_step(**arguments)


def test_without_the_library_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = steps.arguments()
    monkeypatch.setattr(native, "why_missing", lambda: "no C++ compiler")
    monkeypatch.setattr(steps.op.OP, "_choices", {})
    assert steps.op.OP.explain(Call(**arguments).facts()).verdicts[0].reason == "no C++ compiler"
    assert torch.equal(guided_step(**arguments).x, reference(**arguments).x)


def test_a_library_from_before_this_kernel_declines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_missing", lambda: None)
    monkeypatch.setattr(native, "load", lambda: object())
    monkeypatch.setattr(steps.op.OP, "_choices", {})
    arguments = steps.arguments()
    assert "older than the sources" in str(steps.op.OP.explain(Call(**arguments).facts()).verdicts[0].reason)
    assert torch.equal(guided_step(**arguments).x, reference(**arguments).x)


@needs_library
def test_a_step_outside_the_table_is_refused() -> None:
    for row in (-1, steps.STEPS):
        with pytest.raises(InvalidInputError, match=f"^step: got {row}; accepted: rows of the table"):
            run(**{**steps.arguments(), "step": torch.tensor(row)})


@needs_library
@pytest.mark.parametrize(
    "change",
    [{"positions": 0}, {"x": 0}, {"seeds": 1}, {"known": 0}, {"history": 1}, {"inputs": (1, 0, 0, 0, 0)},
     {"model_out": (1, 2, 8, 4, 1)}, {"isa": "sse9"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_the_module_checks_what_it_is_given(change: dict[str, Any]) -> None:
    buffer, step = torch.zeros(64), torch.zeros(1, dtype=torch.int64)
    address = buffer.data_ptr()
    if "seeds" in change:
        change = {"seeds": address}
    call: dict[str, Any] = {
        "samples": 1, "channels": 1, "positions": 4, "x": address, "model_out": (address, 0, 8, 4, 1), "guided": False,
        "guidance_scale": 0.0, "guidance_scales": 0, "guidance_stride": 0, "table": address, "table_rows": 1,
        "step": step.data_ptr(), "step_stride": 0, "noise": address, "seeds": 0, "stream": 0, "known": address,
        "known_mask": address, "score": 0, "history": 0, "clip": True, "remember_eps": False, "next_x": address,
        "x0": address, "next_history": 0, "inputs": (0, 0, 0, 0, 0), "copies": 0,
    }  # fmt: skip
    assert library is not None
    library.guided_step(library.GuidedStep(**call), threads=1)
    isa = change.get("isa", "")
    call |= {name: value for name, value in change.items() if name != "isa"}
    with pytest.raises(ValueError, match=r"guided_step:|instruction set"):
        library.guided_step(library.GuidedStep(**call), threads=1, isa=isa)


def test_the_table_of_the_noisiest_step_is_as_large_as_is_said() -> None:
    assert 1e4 < float(steps.table("ddim")[steps.STEPS - 1, Column.SQRT_RECIP]) < 1e5
    assert math.isfinite(float(steps.table("ddim").abs().max()))
