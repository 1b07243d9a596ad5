"""guided_step's CUDA backend: why it declines, what it hands to the kernel (run by test_cuda_on_host.py), and results."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import step_bound, steps

from glide_fast.errors import BackendError
from glide_fast.ops import guided_step, native
from glide_fast.ops.backends import force
from glide_fast.ops.group_norm_act import cuda as group_norm_act_cuda
from glide_fast.ops.guided_step import cuda as guided_step_cuda
from glide_fast.ops.guided_step.arguments import Call, Facts

FACTS = Facts("cuda", torch.float16, torch.float16, None, False, False)


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that passes its arguments to the CPU's kernel instead, which takes the same ones."""
    library = native.load()
    if library is None:
        pytest.skip(f"needs the CPU's kernel: {native.why_missing()}")

    def launch(arguments: object, stream: int) -> None:
        assert stream == 77
        library.guided_step(arguments, threads=1)

    fake = SimpleNamespace(GuidedStep=library.GuidedStep, cuda=SimpleNamespace(guided_step=launch))
    monkeypatch.setattr(native, "load", lambda: fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77))


@pytest.mark.parametrize("case", steps.CASES)
@pytest.mark.parametrize("copies", [0, 2])
def test_every_argument_reaches_the_kernel(on_the_cpu: None, case: dict[str, Any], copies: int) -> None:
    arguments = steps.arguments((2, 3, 5, 7), **case)
    inputs = steps.next_inputs((2, 3, 5, 7), copies, torch.bfloat16, True) if copies else None
    out = steps.poisoned(arguments["x"], arguments.get("history"))
    got = guided_step_cuda.run(Call(**arguments, inputs=inputs, out=out))
    assert steps.worst(got, arguments) <= 1e-5
    if inputs is not None:
        assert torch.equal(inputs, got.x.repeat(2, 1, 1, 1).bfloat16())


@pytest.mark.parametrize("scale", [torch.tensor(2.0), torch.tensor([2.0, 3.0])])
def test_a_scale_in_memory_reaches_the_kernel(on_the_cpu: None, scale: torch.Tensor) -> None:
    arguments = {**steps.arguments(), "guidance_scale": scale}
    assert steps.worst(guided_step_cuda.run(Call(**arguments)), arguments) <= 1e-5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": "cpu"}, "x is on cpu"),
        ({"model_dtype": torch.float64}, "model_out is torch.float64"),
        ({"input_dtype": torch.int32}, "inputs is torch.int32"),
        ({"flaw": "noise is not contiguous"}, "noise is not contiguous"),
        ({"gradients": True}, "gradients are wanted"),
        ({"empty": True}, "no elements"),
    ],
)
def test_it_declines_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr(group_norm_act_cuda, "why_missing", lambda: None)
    assert guided_step_cuda.supports(FACTS) is None
    assert reason in str(guided_step_cuda.supports(FACTS._replace(**change)))


def test_forced_on_a_cpu_it_says_why_not() -> None:
    with force(guided_step="cuda"), pytest.raises(BackendError, match="x is on cpu"):
        guided_step(**steps.arguments())


@pytest.mark.gpu
@pytest.mark.parametrize("case", steps.CASES)
def test_on_a_device(case: dict[str, Any]) -> None:
    arguments = steps.arguments((2, 3, 64, 64), **case, device="cuda")
    with force(guided_step="cuda"):
        got = guided_step(**arguments)
    assert step_bound.excess(got, arguments) <= 1


@pytest.mark.gpu
def test_runs_agree_to_the_bit_on_a_device() -> None:
    arguments = steps.arguments((2, 3, 64, 64), rule="plms", known=True, device="cuda")
    with force(guided_step="cuda"):
        first = guided_step(**arguments)
        for _ in range(20):
            again = guided_step(**arguments)
            assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True) if a is not None)
