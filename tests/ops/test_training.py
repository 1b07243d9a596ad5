"""Training with the kernels on: no kernel has a backward pass, so each op falls back, and the gradients are the reference's."""

from __future__ import annotations

import pytest
import torch
from support.small_unets import call_arguments, states, tiny_model

from glide_fast.errors import BackendError
from glide_fast.ops import backends, native
from glide_fast.ops.backends import force

KINDS = ("base", "upsampler-inpaint", "strided", "narrowing", "added-embedding")
HEADS = {
    "num_channels": 32,
    "num_head_channels": 32,
    "dropout": 0.0,
}  # heads of a size that the attention kernels take


def gradients(
    kind: str, dtype: torch.dtype, *, train: bool = True, backend: str | None = None, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """Of a squared error by every parameter (``train``) or by the state alone, in fp64; ``backend`` for every op."""
    model = tiny_model(kind, **HEADS).to(device, memory_format=torch.channels_last)
    model.convert_to(dtype)
    model.dtype = dtype
    model.train(train).requires_grad_(train)
    x = states().to(device, memory_format=torch.channels_last).requires_grad_(not train)
    told = {name: value.to(device) for name, value in call_arguments(kind).items()}
    with force(backend):
        predicted = model(x, torch.tensor([5, 900], device=device), **told)
        loss = (predicted.double()[:, :3] - states(seed=3).to(device).double()).square().sum()
        (loss / 8).backward()  # gradients that fp16 holds, neither too small nor too large
    found = {name: p.grad for name, p in model.named_parameters()} | {"x": x.grad}
    return {name: gradient.double().cpu() for name, gradient in found.items() if gradient is not None}


def error(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> float:
    """Of all gradients together, relative to their norm."""
    assert found.keys() == truth.keys() and found
    off = sum(float((found[name] - truth[name]).square().sum()) for name in truth)
    return (off / sum(float(gradient.square().sum()) for gradient in truth.values())) ** 0.5


@pytest.mark.parametrize("train", [True, False], ids=["parameters", "state"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_in_fp32_has_the_gradients_of_the_reference(kind: str, train: bool) -> None:
    """By the state alone it is what guidance by CLIP asks for: frozen parameters, and an x that wants a gradient."""
    ours = gradients(kind, torch.float32, train=train)
    theirs = gradients(kind, torch.float32, train=train, backend="reference")
    assert error(ours, theirs) < 1e-5
    assert all(
        float((ours[name] - theirs[name]).norm()) <= 1e-3 * float(theirs[name].norm()) + 1e-7 for name in ours
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_in_bf16_is_as_near_the_truth_as_the_reference(kind: str) -> None:
    truth = gradients(kind, torch.float32, backend="reference")
    ours = error(gradients(kind, torch.bfloat16), truth)
    plain = error(gradients(kind, torch.bfloat16, backend="reference"), truth)
    assert 0 < plain < 0.1 and ours <= 1.5 * plain


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_on_a_device_is_as_near_the_truth_as_the_reference(kind: str, dtype: torch.dtype) -> None:
    truth = gradients(kind, torch.float32, backend="reference")
    ours = error(gradients(kind, dtype, device="cuda"), truth)
    plain = error(gradients(kind, dtype, device="cuda", backend="reference"), truth)
    assert 0 < plain < 0.1 and ours <= 1.5 * plain


@pytest.mark.skipif(native.load() is None, reason=str(native.why_missing()))
def test_a_kernel_that_is_forced_says_that_it_has_no_backward_pass() -> None:
    """Rather than a result that has forgotten its inputs."""
    with pytest.raises(BackendError, match="gradients are wanted"):
        gradients("base", torch.float32, backend="cpu")


@pytest.mark.skipif(native.load() is None, reason=str(native.why_missing()))
def test_without_gradients_the_same_model_runs_the_kernels() -> None:
    """Otherwise the tests above would compare the reference with itself."""
    model = tiny_model("base", **HEADS).to(memory_format=torch.channels_last)
    ran: set[tuple[str, str]] = set()
    x = states().to(memory_format=torch.channels_last)
    with backends.listen(lambda choice: ran.add((choice.op.name, choice.backend.name))), torch.no_grad():
        model(x, torch.tensor([5, 900]), **call_arguments("base"))
    assert {("group_norm_act", "cpu"), ("text_attention", "cpu")} <= ran
    ran.clear()
    with backends.listen(lambda choice: ran.add((choice.op.name, choice.backend.name))):
        model(x, torch.tensor([5, 900]), **call_arguments("base"))
    assert {("group_norm_act", "reference"), ("text_attention", "reference")} <= ran
