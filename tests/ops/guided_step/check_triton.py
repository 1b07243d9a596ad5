"""guided_step's Triton kernel against the reference, interpreted or on a device; test_triton.py runs this in its own process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import step_bound, steps
from support.triton_device import DEVICE

from glide_fast.diffusion.noise import philox_normal
from glide_fast.diffusion.rules import RULES
from glide_fast.ops import guided_step
from glide_fast.ops.backends import force
from glide_fast.ops.guided_step import Column, Step
from glide_fast.ops.guided_step import triton as guided_step_triton
from glide_fast.ops.guided_step.arguments import Call
from glide_fast.ops.triton_runtime import interpreting

# The next input in bfloat16 only on devices: the interpreter cuts off where they round to nearest.
INPUT_TYPES = [torch.float32, torch.float16] + ([] if interpreting() else [torch.bfloat16])


def run(**arguments: Any) -> Step:
    return guided_step_triton.run(Call(**arguments))


@settings(max_examples=10 if interpreting() else 40)
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
        st.tuples(st.just(1), st.just(3), st.integers(14, 20), st.integers(14, 20)),
    ),
    rule=st.sampled_from(list(RULES)),
    row=st.sampled_from([0, 1, 5, steps.STEPS - 1]),
    guided=st.booleans(),
    known=st.booleans(),
    score=st.booleans(),
    noise=st.sampled_from(["seeds", "tensor", "none"]),
    model_dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    channels_last=st.booleans(),
    row_of_each=st.booleans(),
    input_dtype=st.sampled_from(INPUT_TYPES),
    copies=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
def test_equals_the_reference(
    input_dtype: torch.dtype, copies: int, channels_last: bool, **case: Any
) -> None:
    arguments = steps.arguments(**case, channels_last=channels_last, device=DEVICE)
    x = arguments["x"]
    inputs = None
    if copies:
        inputs = steps.next_inputs(tuple(x.shape), copies, input_dtype, channels_last).to(DEVICE)
    got = run(**arguments, inputs=inputs, out=steps.poisoned(x, arguments.get("history")))
    assert steps.worst(got, arguments) <= 1e-5
    assert step_bound.excess(got, arguments) <= 1
    if inputs is not None:
        assert torch.equal(inputs, got.x.to(input_dtype).repeat(copies, 1, 1, 1))


@pytest.mark.parametrize("stream", [0, 1, 2**32 - 1])
def test_the_noise_is_that_of_the_definition(stream: int) -> None:
    """A table of one column that adds noise to nothing shows it bare."""
    seeds = torch.tensor([0, 2**40 + 3, 2**63 - 1], device=DEVICE)
    rows = torch.tensor([0, 7, 3], device=DEVICE)
    table = torch.zeros(8, Column.COUNT, device=DEVICE)
    table[:, Column.NOISE] = 1
    zeros = torch.zeros(3, 3, 16, 17, device=DEVICE)
    got = run(
        x=zeros,
        model_out=torch.cat([zeros, zeros], 1),
        table=table,
        step=rows,
        seeds=seeds,
        stream=stream,
    ).x
    want = philox_normal(seeds, rows, (3, 16, 17), stream=stream)
    assert float((got - want).abs().max()) <= 1e-5


@pytest.mark.parametrize("rule", ["ddpm", "plms"])
def test_in_place_and_in_memory_scale(rule: str) -> None:
    arguments = steps.arguments((2, 3, 9, 5), rule=rule, known=True, device=DEVICE)
    arguments["guidance_scale"] = torch.tensor([1.5, 3.0], device=DEVICE)
    with force(guided_step="triton"):
        want = guided_step(**arguments)
        assert steps.worst(want, arguments) <= 1e-5
        x, history = arguments["x"], arguments.get("history")
        got = guided_step(**arguments, out=Step(x, torch.empty_like(x), history))
    assert got.x is x
    for a, b in zip(got, want, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_an_image_does_not_depend_on_its_batch() -> None:
    arguments = steps.arguments((3, 3, 13, 11), device=DEVICE)
    together = run(**arguments).x
    for i in range(3):
        one = {**arguments, "model_out": arguments["model_out"][i::3]}
        one |= {name: arguments[name][i : i + 1] for name in ("x", "seeds")}
        assert torch.equal(run(**one).x, together[i : i + 1])


def test_a_row_outside_the_table_gives_nan() -> None:
    arguments = steps.arguments((2, 3, 4, 4), rule="plms", known=True, score=True, device=DEVICE)
    want = run(**arguments)
    inputs = torch.zeros(4, 3, 4, 4, device=DEVICE)
    for row in (-1, steps.STEPS):
        arguments["step"] = torch.tensor([arguments["step"].flatten()[0], row], device=DEVICE)
        got = guided_step_triton.launch(Call(**arguments, inputs=inputs))
        assert torch.equal(got.x[0], want.x[0]) and torch.equal(got.x0[0], want.x0[0])
        assert got.history is not None
        for part in (got.x[1], got.x0[1], got.history[0, 1], inputs[1::2]):
            assert bool(part.isnan().all())


def test_what_is_not_finite_is_what_the_reference_says() -> None:
    for poison in (float("nan"), float("inf"), -float("inf"), 3e38):
        for channel in (1, 4):  # of eps, of the variance
            arguments = steps.arguments((1, 3, 4, 4), noise="tensor", device=DEVICE) | {"clip": False}
            arguments["model_out"][0, channel, 2, 1:3] = poison
            want = steps.reference(**arguments)
            for ours, theirs in zip(run(**arguments)[:2], want[:2], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)
