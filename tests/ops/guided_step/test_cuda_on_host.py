"""guided_step's CUDA kernel, run on the host, against fp64 and, to the bit, the reference; its noise against the definition."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import cuda_host, step_bound

from glide_fast.diffusion.noise import philox_normal
from glide_fast.ops.guided_step import HISTORY, Column, Step
from glide_fast.ops.guided_step.reference import reference

ROWS = 7


def table(seed: int) -> torch.Tensor:
    rows = torch.rand(ROWS, Column.COUNT, generator=torch.Generator().manual_seed(seed)) + 0.1
    rows[:, Column.MIN_LOG] -= 3
    return rows


def image_values(name: str, tensor: torch.Tensor, channels_last: bool) -> dict[str, int]:
    """Of a buffer [N, C, P] or, channels-last, [N, P, C]."""
    _, second, third = tensor.shape
    return {
        f"{name}.dtype": cuda_host.TYPE_CODES[tensor.dtype],
        f"{name}.sample_stride": second * third,
        f"{name}.channel_stride": 1 if channels_last else third,
        f"{name}.position_stride": third if channels_last else 1,
    }


@settings(max_examples=40)
@given(
    n=st.integers(1, 3),
    channels=st.sampled_from([3, 1]),
    side=st.sampled_from([(4, 4), (5, 3), (16, 17), (1, 1)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    channels_last=st.booleans(),
    guidance=st.sampled_from([None, "number", "tensor"]),
    known=st.booleans(),
    score=st.booleans(),
    history=st.booleans(),
    remember_eps=st.booleans(),
    clip=st.booleans(),
    drawn=st.booleans(),
    noisy=st.booleans(),
    steps=st.sampled_from(["one", "each"]),
    seed=st.integers(0, 2**31),
)
def test_against_fp64(
    cuda_program: Path,
    n: int,
    channels: int,
    side: tuple[int, int],
    dtype: torch.dtype,
    channels_last: bool,
    guidance: str | None,
    known: bool,
    score: bool,
    history: bool,
    remember_eps: bool,
    clip: bool,
    drawn: bool,
    noisy: bool,
    steps: str,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    positions, copies = math.prod(side), 1 if guidance is None else 2
    shape = (n, channels, *side)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    x, model_out = normal(*shape), normal(copies * n, 2 * channels, *side).to(dtype)
    rows = table(seed)
    step = torch.randint(0, ROWS, (n,) if steps == "each" else (), generator=generator)
    seeds = torch.randint(0, 2**62, (n,), generator=generator)
    noise = {"seeds": seeds, "stream": 3} if drawn else {"noise": normal(*shape)} if noisy else {}
    arguments: dict[str, Any] = {
        "x": x, "model_out": model_out, "table": rows, "step": step, "clip": clip, "remember_eps": remember_eps, **noise,
    }  # fmt: skip

    packed = model_out.flatten(2)
    buffers: dict[str, torch.Tensor] = {
        "x": x,
        "model_out": packed.movedim(1, 2).contiguous() if channels_last else packed,
        "table": rows,
        "step": step,
        "next_x": torch.full(shape, math.nan),
        "x0": torch.full(shape, math.nan),
    }
    following = (
        (copies * n, positions, channels + 1) if channels_last else (copies * n, channels + 1, positions)
    )
    buffers["inputs"] = torch.full(following, 7.0, dtype=dtype)  # one channel more, which is somebody else's
    values: dict[str, Any] = {
        "samples": n, "channels": channels, "positions": positions, "clip": clip, "remember_eps": remember_eps,
        "table_rows": ROWS, "step.stride": int(steps == "each"), "copies": copies, "stream": 3,
        **image_values("model_out", buffers["model_out"], channels_last),
        **image_values("inputs", buffers["inputs"], channels_last),
    }  # fmt: skip
    buffers |= {name: value for name, value in noise.items() if isinstance(value, torch.Tensor)}
    if guidance == "number":
        arguments["guidance_scale"], values["guided"], values["guidance_scale"] = 3.25, 1, 3.25
    if guidance == "tensor":
        arguments["guidance_scale"] = buffers["guidance_scales"] = 1 + 4 * torch.rand(n, generator=generator)
        values["guided"], values["guidance_scales.stride"] = 1, 1
    if known:
        buffers["known"] = normal(*shape)
        buffers["known_mask"] = (normal(n, 1, *side) > 0).float()
    if score:
        buffers["score"] = normal(*shape)
    if history:
        buffers["history"] = normal(HISTORY, *shape)
    arguments |= {
        name: buffers[name] for name in ("known", "known_mask", "score", "history") if name in buffers
    }

    names = ("next_x", "x0", "inputs", *(("history",) if history else ()))
    out = cuda_host.run(cuda_program, "guided_step", buffers, names, **values)[1]
    remembered = out["history"].view(HISTORY, *shape) if history else None
    got = Step(out["next_x"].view(shape), out["x0"].view(shape), remembered)
    assert step_bound.excess(got, arguments) <= 1
    want = reference(**arguments)
    assert torch.equal(got.x0, want.x0)
    if history:
        assert torch.equal(got.history, want.history)
    if not (score or drawn or noisy):  # no exponential, no normals: nothing but products and sums
        assert torch.equal(got.x, want.x)
    into = out["inputs"].view(following)
    into = into.movedim(2, 1) if channels_last else into
    assert (into[:, channels:] == 7).all()
    state = out["next_x"].view(n, channels, positions).to(dtype)
    assert torch.equal(into[:, :channels], torch.cat([state] * copies))


def test_the_noise_is_the_definition_s(cuda_program: Path) -> None:
    """With every coefficient but the noise's at zero the new state is the noise."""
    rows = torch.zeros(1000, Column.COUNT)
    rows[:, Column.NOISE] = 1
    shape, seeds = (2, 3, 15, 15), torch.tensor([0, 2**63 - 1])
    buffers = {
        "x": torch.zeros(shape), "model_out": torch.zeros(2, 6, 225), "table": rows, "step": torch.tensor(999),
        "next_x": torch.full(shape, math.nan), "seeds": seeds,
    }  # fmt: skip
    values = {"samples": 2, "channels": 3, "positions": 225, "table_rows": 1000, "stream": 1, "clip": 0,
              **image_values("model_out", buffers["model_out"], False)}  # fmt: skip
    out = cuda_host.run(cuda_program, "guided_step", buffers, ("next_x",), **values)[1]["next_x"].view(shape)
    noise = philox_normal(seeds, 999, shape[1:], stream=1)
    assert float((out - noise).abs().max()) <= 1e-5
    assert 0.9 < float(noise.std()) < 1.1


def small_call() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """One image of four elements, all arguments that a call needs."""
    buffers = {
        "x": torch.full((1, 1, 4), 5.0),
        "model_out": torch.zeros(1, 2, 4),
        "table": table(0),
        "step": torch.tensor(0),
        "next_x": torch.full((1, 1, 4), 7.0),
    }
    values = {"samples": 1, "channels": 1, "positions": 4, "table_rows": ROWS}
    return buffers, {**values, **image_values("model_out", buffers["model_out"], False)}


@pytest.mark.parametrize("step", [-1, ROWS, 2**40])
def test_a_step_outside_the_table_gives_nan(cuda_program: Path, step: int) -> None:
    """Not what lay there before: an old image would pass for a result. The table is not read."""
    buffers, values = small_call()
    buffers["step"] = torch.tensor(step)
    results = {"x0": torch.full((1, 1, 4), 7.0), "history": torch.full((3, 1, 1, 4), 2.0)}
    next_input = torch.full((1, 1, 4), 7.0)
    values |= {"copies": 1, **image_values("inputs", next_input, False)}
    names = ("next_x", "x0", "history", "inputs")
    out = cuda_host.run(
        cuda_program, "guided_step", {**buffers, **results, "inputs": next_input}, names, **values
    )[1]
    assert all(out[name].isnan().all() for name in ("next_x", "x0", "inputs"))
    assert out["history"].view(3, 4)[0].isnan().all() and (out["history"].view(3, 4)[1:] == 2).all()


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("where", ["v", "eps", "x", "noise", None])
def test_what_is_not_finite_is_what_the_reference_says(
    cuda_program: Path, poison: float, where: str | None
) -> None:
    """Without noise (None) the variance has no part in the result, whatever it is."""
    buffers, values = small_call()
    noise = torch.ones(1, 1, 4) if where is not None else None
    if noise is not None:
        buffers["noise"] = noise
    target = buffers["model_out"][:, 1:] if where in ("v", None) else buffers["model_out"][:, :1]
    target = buffers[where] if where in ("x", "noise") else target
    target[..., 1] = poison
    values["clip"] = 0
    out = cuda_host.run(cuda_program, "guided_step", buffers, ("next_x",), **values)[1]["next_x"]
    want = reference(*(buffers[n] for n in ("x", "model_out", "table", "step")), noise, clip=False).x
    torch.testing.assert_close(out.flatten(), want.flatten(), rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("change", "drop", "message"),
    [
        ({"samples": 0}, "", "sizes must be positive"),
        ({}, "table", "table and step are needed"),
        ({"model_out.dtype": 9}, "", "a type code"),
    ],
)
def test_bad_arguments_are_refused(
    cuda_program: Path, change: dict[str, int], drop: str, message: str
) -> None:
    buffers, values = small_call()
    buffers.pop(drop, None)
    with pytest.raises(cuda_host.Failed, match=message):
        cuda_host.run(cuda_program, "guided_step", buffers, (), **{**values, **change})
