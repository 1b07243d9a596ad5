"""Small calls of every op at awkward sizes: what accuracy and the sanitizer look at.

``python -m benchmarks.gpu.probes OP --device cuda`` makes each call with each backend that takes it and compares with fp64.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import torch

from benchmarks.case import UNIT, error, said
from glide_fast import ops as public
from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.rules import ddpm
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.errors import BackendError
from glide_fast.ops.backends import force, ops

Tensors: TypeAlias = Mapping[str, torch.Tensor]
TYPES = {"cuda": (torch.float16, torch.bfloat16, torch.float32), "cpu": (torch.bfloat16, torch.float32)}
FLOOR = 1e-6
"""Relative error that is let pass whatever the reference's own is: below it two orders of an fp32 sum differ."""


class Probe(NamedTuple):
    """A call of an op's public function, given its tensors by name; integers keep their type, the others get the probe's."""

    op: str
    what: str
    tensors: Callable[[torch.Generator], dict[str, torch.Tensor]]
    call: Callable[[Tensors], Iterable[torch.Tensor]]
    fp32_only: bool = False


class Found(NamedTuple):
    """A backend on a probe. ``reason`` says why it declined; else there is an error."""

    probe: Probe
    dtype: torch.dtype
    backend: str
    reason: str = ""
    error: float = 0.0
    reference_error: float = 0.0
    crash: str = ""  # what it raised, where that was no refusal

    @property
    def allowed(self) -> float:
        """Twice the reference's in the same type, or one rounding of it."""
        return max(2 * self.reference_error, UNIT[self.dtype], FLOOR)

    @property
    def wrong(self) -> bool:
        return bool(self.crash) or not (self.reason or self.error <= self.allowed)


def _image(generator: torch.Generator, *shape: int, mean: float = 0.0) -> torch.Tensor:
    values = torch.randn(*shape, generator=generator) * 0.5 + mean
    return values.contiguous(memory_format=torch.channels_last)


def _norm(n: int, channels: int, side: int, groups: int, extra: str = "") -> Probe:
    """``extra`` of "x2", "residual", "nearest_x2", "mean_2x2"; "" is FiLM and SiLU alone."""

    def tensors(g: torch.Generator) -> dict[str, torch.Tensor]:
        made = {"x": _image(g, n, channels, side, side, mean=2.3)}
        total = channels
        if extra == "x2":
            made["x2"] = _image(g, n, channels, side, side, mean=-0.7)
            total = 2 * channels
        if extra == "residual":
            made |= {
                "residual": _image(g, n, channels, side, side),
                "x_bias": torch.randn(channels, generator=g),
            }
        film = torch.randn(4, n, total, generator=g)
        weight, bias = film[0, 0].clone(), film[1, 0].clone()
        return made | {"weight": weight, "bias": bias, "scale": film[2], "shift": film[3]}

    def call(t: Tensors) -> Iterable[torch.Tensor]:
        more = {name: t[name] for name in ("x2", "residual", "x_bias", "scale", "shift") if name in t}
        mode = extra if extra in ("nearest_x2", "mean_2x2") else None
        kept = extra == "residual"
        y = public.group_norm_act(
            t["x"],
            t["weight"],
            t["bias"],
            groups,
            silu=True,
            resample=mode,
            keep_sum=kept,
            **more,  # type: ignore[call-overload]
        )
        return y if kept else (y,)

    label = f"{n}x{channels}x{side}x{side}, {groups} groups" + (f", {extra}" if extra else "")
    return Probe("group_norm_act", label, tensors, call)


def _resample(mode: str, n: int, channels: int, side: int) -> Probe:
    def tensors(g: torch.Generator) -> dict[str, torch.Tensor]:
        bias = torch.randn(channels, generator=g)
        x, residual = _image(g, n, channels, side, side), _image(g, n, channels, side, side)
        return {"x": x, "bias": bias, "residual": residual}

    def call(t: Tensors) -> Iterable[torch.Tensor]:
        return (public.resample(t["x"], mode, bias=t["bias"], residual=t["residual"]),)

    return Probe("resample", f"{mode}, {n}x{channels}x{side}x{side}", tensors, call)


def _attention(n: int, heads: int, head_size: int, tokens: int, text: int) -> Probe:
    def tensors(g: torch.Generator) -> dict[str, torch.Tensor]:
        made = {"qkv": torch.randn(n, tokens, heads * 3 * head_size, generator=g).mT}
        if text:
            made["kv"] = torch.randn(n, text, heads * 2 * head_size, generator=g).mT
        return made

    def call(t: Tensors) -> Iterable[torch.Tensor]:
        return (public.text_attention(t["qkv"], heads, t.get("kv")),)

    return Probe("text_attention", f"{n}x{heads}x{head_size}, {tokens} + {text} tokens", tensors, call)


def _masked(n: int, heads: int, head_size: int, tokens: int, causal: bool) -> Probe:
    def tensors(g: torch.Generator) -> dict[str, torch.Tensor]:
        q, k, v = torch.randn(3, n, tokens, heads * head_size, generator=g)
        made = {"q": q, "k": k, "v": v}
        return made if causal else made | {"lengths": torch.arange(n) + tokens - n + 1}

    def call(t: Tensors) -> Iterable[torch.Tensor]:
        return (
            public.masked_attention(t["q"], t["k"], t["v"], heads, causal=causal, lengths=t.get("lengths")),
        )

    what = f"{n}x{heads}x{head_size}, {tokens} tokens, {'causal' if causal else 'by length'}"
    return Probe("masked_attention", what, tensors, call)


def _convolution(
    n: int, channels: tuple[int, int], side: int, kernel: int, stride: int, residual: bool
) -> Probe:
    def tensors(g: torch.Generator) -> dict[str, torch.Tensor]:
        weight = _image(g, channels[1], channels[0], kernel, kernel) / (channels[0] * kernel**2) ** 0.5
        made = {
            "x": _image(g, n, channels[0], side, side),
            "weight": weight,
            "bias": torch.randn(channels[1], generator=g),
        }
        after = (side - 1) // stride + 1
        return made | ({"residual": _image(g, n, channels[1], after, after)} if residual else {})

    def call(t: Tensors) -> Iterable[torch.Tensor]:
        return (
            public.convolution(t["x"], t["weight"], t["bias"], residual=t.get("residual"), stride=stride),
        )

    what = f"{n}x{channels[0]}x{side}x{side} to {channels[1]}, {kernel}x{kernel}/{stride}{', residual' if residual else ''}"
    return Probe("convolution", what, tensors, call)


def _step(n: int, side: int, guided: bool) -> Probe:
    def tensors(g: torch.Generator) -> dict[str, torch.Tensor]:
        schedule = get_named_beta_schedule("squaredcos_cap_v2", 1000)
        table = ddpm(SpacedDiffusion(space_timesteps(1000, "100"), betas=schedule))
        return {
            "x": torch.randn(n, 3, side, side, generator=g),
            "out": torch.randn((1 + guided) * n, 6, side, side, generator=g),
            "table": torch.from_numpy(table),
            "step": torch.full((n,), 50),
            "seeds": torch.arange(n) + 17,
        }

    def call(t: Tensors) -> Iterable[torch.Tensor]:
        scale = 3.0 if guided else None
        result = public.guided_step(
            t["x"], t["out"], t["table"], t["step"], seeds=t["seeds"], stream=1, guidance_scale=scale
        )
        return result.x, result.x0

    what = f"{n}x3x{side}x{side}{', guided' if guided else ''}"
    return Probe("guided_step", what, tensors, call, fp32_only=True)


PROBES = (
    # One and two passes, a cluster, groups of GLIDE's widths, and sides that no tile divides.
    _norm(2, 192, 17, 32),
    _norm(1, 96, 64, 16),
    _norm(1, 576, 16, 32),
    _norm(3, 48, 5, 8),
    _norm(2, 96, 16, 32, "x2"),
    _norm(2, 192, 9, 32, "residual"),
    _norm(1, 64, 10, 32, "nearest_x2"),
    _norm(1, 64, 10, 32, "mean_2x2"),
    _resample("nearest_x2", 2, 48, 7),
    _resample("mean_2x2", 2, 48, 6),
    _attention(2, 3, 64, 64, 128),
    _attention(1, 2, 64, 77, 19),
    _attention(1, 1, 128, 33, 5),
    _attention(1, 2, 32, 40, 0),
    _masked(2, 2, 64, 77, causal=True),
    _masked(3, 3, 64, 41, causal=False),
    _convolution(2, (96, 64), 8, 3, 1, residual=True),
    _convolution(1, (64, 48), 11, 3, 2, residual=False),
    _convolution(1, (48, 96), 7, 1, 1, residual=True),
    _step(2, 16, guided=True),
    _step(1, 33, guided=False),
)


def of_op(op: str) -> tuple[Probe, ...]:
    """The probes of an op."""
    return tuple(probe for probe in PROBES if probe.op == op)


def look(probe: Probe, device: str) -> Iterator[Found]:
    """Every type and backend of a probe but the reference, which is what they are compared with, in fp64."""
    tensors = probe.tensors(torch.Generator().manual_seed(0))
    types = (torch.float32,) if probe.fp32_only else TYPES[device]
    with torch.inference_mode():
        for dtype in types:
            given = {
                name: value.to(device, dtype if value.is_floating_point() else None)
                for name, value in tensors.items()
            }
            wide = {
                name: value.double() if value.is_floating_point() else value for name, value in given.items()
            }
            with force(**{probe.op: "reference"}):
                truth = list(probe.call(wide))
                own = error(probe.call(given), truth)
            for backend in ops()[probe.op].names:
                if backend == "reference":
                    continue
                try:
                    with force(**{probe.op: backend}):
                        got = list(probe.call(given))
                except BackendError as reason:
                    yield Found(probe, dtype, backend, reason=said(reason))
                except Exception as crash:  # of one backend; the others are still to be looked at
                    yield Found(
                        probe, dtype, backend, crash=f"{type(crash).__name__}: {crash}", error=float("nan")
                    )
                else:
                    yield Found(probe, dtype, backend, error=error(got, truth), reference_error=own)


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 where a result is wrong or no backend ran, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.probes", description=__doc__.split(":")[0]
    )
    parser.add_argument("op", choices=sorted({probe.op for probe in PROBES}))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--first", type=int, help="only so many probes")
    options = parser.parse_args(arguments)
    ran = wrong = 0
    for probe in of_op(options.op)[: options.first]:
        for found in look(probe, options.device):
            if not found.reason:
                ran += 1
                wrong += found.wrong
                state = "WRONG" if found.wrong else "right"
                print(
                    f"{probe.what} {found.dtype} {found.backend}: {state}, error {found.error:.2g}",
                    flush=True,
                )
    print(f"{options.op}: {ran} calls, {wrong} wrong")
    return int(wrong > 0 or ran == 0)


if __name__ == "__main__":
    sys.exit(main())
