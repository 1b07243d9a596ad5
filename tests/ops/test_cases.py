"""Each op's cases: they are the calls that GLIDE's networks make, of the sizes that the released models have."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from glide_fast.models.config import model_and_diffusion_defaults, model_and_diffusion_defaults_upsampler
from glide_fast.models.factory import build
from glide_fast.ops.backends import listen
from glide_fast.ops.case import Case
from glide_fast.ops.described import described
from glide_fast.runtime.films import Films
from glide_fast.runtime.torso import Conditioning, Torso

OPS = ["group_norm_act", "guided_step", "resample"]
OPTIONS = {
    "base": model_and_diffusion_defaults(),
    "upsampler": model_and_diffusion_defaults_upsampler(),
}


def module(op: str, name: str) -> Any:
    return importlib.import_module(f"glide_fast.ops.{op}.{name}")


def call(op: str, case: Case, batch: int, dtype: torch.dtype = torch.float32) -> Any:
    return module(op, "arguments").Call(**case.arguments(batch, dtype))


@functools.cache
def launched(model: str, batch: int, defer: bool) -> dict[str, set[str]]:
    """Descriptions of a network's calls, by op; nothing is computed."""
    options = {**OPTIONS[model], "use_fp16": False, "xf_layers": 1}
    side, channels = options["image_size"], options["num_channels"]
    found: dict[str, set[str]] = {}
    with torch.device("meta"), torch.no_grad():
        network, _ = build(options)
        dtype = torch.float32
        if defer:  # a GPU's type; some choices there depend on it
            dtype = torch.float16
            network.convert_to(dtype)
        torso = Torso(network, defer)
        films = Films(torso.residuals)
        text = [
            torch.empty(batch, 2 * block.channels, options["text_ctx"], dtype=dtype)
            for block in torso.attentions
        ]
        x = torch.empty(batch, 3, side, side).to(dtype, memory_format=torch.channels_last)
        share = None
        if model == "upsampler":
            share = torch.empty(batch, channels, side, side).to(dtype, memory_format=torch.channels_last)
        conditioning = Conditioning(films.split(torch.empty(batch, films.width)), text, share)
        with listen(lambda choice: found.setdefault(choice.op.name, set()).add(described(choice))):
            torso(x, conditioning)
    return found


@pytest.mark.parametrize("op", ["group_norm_act", "resample"])
@pytest.mark.parametrize("model", OPTIONS)
def test_the_cases_are_what_a_network_launches_on_a_cpu_and_on_a_gpu(op: str, model: str) -> None:
    cases = [case for case in module(op, "cases").CASES if case.model == model]
    with FakeTensorMode():  # arguments of these sizes take long to draw
        described = {module(op, "cases").describe(call(op, case, 2)): case.name for case in cases}
    networks = launched(model, 2, False)[op] | launched(model, 2, True)[op]
    assert networks <= set(described)
    # Models whose layers resize without a residual block are not among the released ones.
    others = {text for text, name in described.items() if op == "resample" and "bias residual" in name}
    assert set(described) - others == networks


@pytest.mark.parametrize(
    ("op", "model", "batch"),
    [
        ("window_convolution", "base", 2),
        ("window_convolution", "base", 32),
        ("window_convolution", "upsampler", 1),
        ("output_convolution", "base", 2),
        ("output_convolution", "upsampler", 1),
    ],
)
def test_the_cases_of_a_batch_are_what_a_network_launches_on_a_gpu(op: str, model: str, batch: int) -> None:
    cases = [case for case in module(op, "cases").CASES if case.model == model and batch in case.batches]
    with FakeTensorMode():
        described = {module(op, "cases").describe(call(op, case, batch)) for case in cases}
    assert described == launched(model, batch, True)[op]


@pytest.mark.parametrize("op", OPS)
def test_a_case_has_a_name_of_its_own_and_arguments_that_its_op_takes(op: str) -> None:
    cases = module(op, "cases").CASES
    assert len({case.title for case in cases}) == len(cases)
    assert {case.op for case in cases} == {op} and {case.model for case in cases} == set(OPTIONS)
    with FakeTensorMode():
        for case in cases:
            made = call(op, case, case.batches[0], torch.bfloat16)
            module(op, "arguments").check_arguments(made)
            cost = module(op, "cases").cost(made)
            assert cost.bytes > 0 and cost.flops >= 0


@pytest.mark.parametrize("op", OPS)
def test_a_case_is_drawn_the_same_each_time_in_the_layout_that_kernels_read(op: str) -> None:
    case = min(module(op, "cases").CASES, key=lambda case: (case.model != "base", len(case.name)))
    first, again = call(op, case, 1), call(op, case, 1)
    for a, b in zip(first.tensors, again.tensors, strict=True):
        assert (a is None) == (b is None) and (a is None or b is None or torch.equal(a, b))
    supports = module(op, "cpu").supports(first.facts())
    assert supports is None or "native library" in supports
