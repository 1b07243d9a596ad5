"""Every op on tensors that are more than their memory: torch's transforms, modes, views and subclasses give what they should."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from support import steps
from support.onednn import TYPES
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from glide_fast.errors import BackendError
from glide_fast.ops import (
    convolution,
    group_norm_act,
    guided_step,
    masked_attention,
    native,
    plain_tensor,
    resample,
    text_attention,
)
from glide_fast.ops.backends import force, ops
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.upsampled_convolution import upsampled_convolution
from glide_fast.ops.upsampled_convolution.places import place_weights
from glide_fast.runtime.watched import Watched

Function = Callable[[torch.Tensor], torch.Tensor]
generator = torch.Generator().manual_seed(0)


def normal(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=generator)


def pixels(*size: int) -> torch.Tensor:
    return normal(*size).to(memory_format=torch.channels_last)


WEIGHT, BIAS, KERNEL, TEXT = normal(32), normal(32), normal(16, 32, 3, 3) / 17, normal(2, 5, 128).mT
PLACES = place_weights(KERNEL)
STEP = steps.arguments((2, 3, 4, 4), noise="tensor")
X, TOKENS = pixels(2, 32, 4, 6), normal(2, 8, 64)

CASES: dict[str, tuple[str, Function, torch.Tensor]] = {
    "norm": ("group_norm_act", lambda x: group_norm_act(x, WEIGHT, BIAS, 4, silu=True), X),
    "norm with all": (
        "group_norm_act",
        lambda x: group_norm_act(
            x, WEIGHT, BIAS, 4, scale=BIAS.expand(2, 32), shift=WEIGHT.expand(2, 32), residual=x, x_bias=BIAS,
            resample="nearest_x2", keep_sum=True,
        )[0],
        X,
    ),
    "norm and mean": ("group_norm_act", lambda x: group_norm_act(x, WEIGHT, BIAS, 4, resample="mean_2x2"), X),
    "text": ("text_attention", lambda x: text_attention(x, 1, TEXT), normal(2, 8, 192).mT),
    "masked": ("masked_attention", lambda x: masked_attention(x, x, x, 1, causal=True), TOKENS),
    "nearest": ("resample", lambda x: resample(x, "nearest_x2", bias=BIAS), X),
    "mean": ("resample", lambda x: resample(x, "mean_2x2", residual=x), X),
    "convolution": ("convolution", lambda x: convolution(x, KERNEL), X),
    "upsampled": ("convolution", lambda x: upsampled_convolution(x, PLACES), X),
    "step": ("guided_step", lambda x: guided_step(**{**STEP, "x": x}).x, STEP["x"]),
}  # fmt: skip

cases = pytest.mark.parametrize("case", CASES)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def by_reference(run: Function) -> Function:
    def reference(x: torch.Tensor) -> torch.Tensor:
        with force("reference"):
            return run(x)

    return reference


class Marked(torch.Tensor):
    """A subclass that does nothing but stay."""


@cases
@pytest.mark.parametrize(
    "view", ["negative", "imaginary part of a conjugate", "subclass", "zeros", "expanded"]
)
def test_views_and_subclasses(case: str, view: str) -> None:
    _, run, x = CASES[case]
    odd, plain = {
        "negative": lambda: (torch._neg_view(-x), x),
        "imaginary part of a conjugate": lambda: (torch.complex(x, -x).conj().imag, x),
        "subclass": lambda: (x.as_subclass(Marked), x),
        "zeros": lambda: (torch._efficientzerotensor(x.shape), torch.zeros_like(x)),
        "expanded": lambda: (x[:1].expand_as(x), x[:1].expand_as(x).clone()),
    }[view]()
    got = run(odd)
    assert type(got) is (Marked if view == "subclass" else torch.Tensor)
    close(got.as_subclass(torch.Tensor), run(plain))


@cases
def test_tangents(case: str) -> None:
    _, run, x = CASES[case]
    tangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    step = 1e-3
    wide = by_reference(run)
    slope = (wide(x + step * tangent) - wide(x - step * tangent)) / (2 * step)
    value, found = torch.func.jvp(run, (x,), (tangent,))
    close(value, run(x))
    torch.testing.assert_close(found, slope, rtol=2e-2, atol=2e-2)
    with forward_ad.dual_level():
        close(forward_ad.unpack_dual(run(forward_ad.make_dual(x, tangent))).tangent, found)
        plain = run(x)  # a level alone changes nothing
    close(plain, value)


@cases
def test_a_batch_of_calls(case: str) -> None:
    _, run, x = CASES[case]
    close(torch.vmap(run)(torch.stack([x, 2 * x])), torch.stack([run(x), run(2 * x)]))


@cases
def test_gradients_of_every_sort(case: str) -> None:
    _, run, x = CASES[case]
    leaf = x.clone().requires_grad_()
    want = torch.autograd.grad(by_reference(run)(leaf).square().sum(), leaf)[0]
    close(torch.autograd.grad(run(leaf).square().sum(), leaf)[0], want)
    close(torch.func.grad(lambda y: run(y).square().sum())(x), want)
    close(torch.func.functionalize(run)(x), run(x))


@cases
def test_a_trace_holds_the_maths(case: str) -> None:
    _, run, x = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is on its way out of torch, and warns of sizes read
        traced = torch.jit.trace(run, (x,), check_trace=False)
    assert any(node.kind() not in ("aten::empty", "prim::Constant") for node in traced.graph.nodes())
    close(traced(2 * x), run(2 * x))


@pytest.mark.parametrize("kept", ["packed", "tiled", "plain"])
@pytest.mark.parametrize("upsampled", [False, True])
def test_a_trace_holds_the_maths_of_a_packed_weight(kept: str, upsampled: bool) -> None:
    # Winograd's tiles are of bf16, and for 3x3: 2x2 weights need oneDNN's layout.
    in_bf16 = kept == "tiled" and (not upsampled or torch.bfloat16 in TYPES)
    dtype = torch.bfloat16 if in_bf16 else torch.float32
    x, dense = pixels(1, 32, 8, 8).to(dtype), normal(16, 32, 3, 3).to(dtype)
    op: Callable[..., torch.Tensor] = convolution
    if upsampled:
        op, dense = upsampled_convolution, place_weights(dense)
    bias = normal(len(dense)).to(dtype)
    packed = PackedWeight.pack(
        dense,
        input_shape=x.shape,
        padding=1,
        tile=kept == "tiled",
        **({"stride": 3} if kept == "plain" else {}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(lambda t: op(t, packed, bias), (x,), check_trace=False)
    with force("reference"):
        want = op(2 * x, dense, bias)
    torch.testing.assert_close(traced(2 * x), want)


@cases
@pytest.mark.parametrize(
    "options",
    [
        {"tracing_mode": "real"},
        {"tracing_mode": "fake"},
        {"tracing_mode": "symbolic"},
        {"pre_dispatch": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_graph_holds_the_op_as_one_node(case: str, options: dict[str, Any]) -> None:
    name, run, x = CASES[case]
    graph = make_fx(run, **options, _allow_non_fake_inputs=True)(x)
    nodes = [node for node in graph.graph.nodes if str(node.target).startswith("glide_fast.")]
    assert len(nodes) == 1 and name in str(nodes[0].target)
    close(graph(2 * x), run(2 * x))


@cases
def test_fake_tensors(case: str) -> None:
    _, run, x = CASES[case]
    want = run(x)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = mode.from_tensor(x)
    for got in (run(fake), mode.__enter__() and run(fake)):
        assert isinstance(got, torch._subclasses.FakeTensor)
        assert (got.shape, got.dtype, got.stride()) == (want.shape, want.dtype, want.stride())
    mode.__exit__(None, None, None)


@cases
def test_exported(case: str) -> None:
    _, run, x = CASES[case]

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return run(x)

    close(torch.export.export(Module(), (x,)).module()(2 * x), run(2 * x))


@pytest.mark.parametrize("case", ["masked", "mean"])
def test_on_the_meta_device_there_is_a_shape(case: str) -> None:
    _, run, x = CASES[case]
    got = run(x.to("meta"))
    assert got.device.type == "meta" and got.shape == run(x).shape


@pytest.mark.skipif(native.load() is None, reason=str(native.why_missing()))
def test_a_forced_backend_says_why_it_cannot() -> None:
    odd = torch._neg_view(X)
    with (
        force(resample="cpu"),
        pytest.raises(BackendError, match="x is a view whose values are to be negated when they are read"),
    ):
        resample(odd, "mean_2x2")
    with force(resample="cpu"), pytest.raises(BackendError, match="bias is a Marked, a subclass"):
        resample(X, "mean_2x2", bias=BIAS.as_subclass(Marked))
    with force(resample="cpu"), pytest.raises(BackendError, match=r"belongs to torch\.vmap"):
        torch.vmap(lambda x: resample(x, "mean_2x2"))(X[None])


def test_every_fast_backend_asks() -> None:
    """All but the reference, and torch's own convolution, which is one of its operators like any other."""

    class Facts(str):
        unreadable = "x is odd"

    for op in ops().values():
        for name in op.names:
            if name not in ("reference", "cudnn"):
                assert op.backend(name).supports(Facts()) == "x is odd", (op.name, name)


def test_plain_tensors_have_no_reason() -> None:
    names, tensors = ("a", "b", "c", "d"), (X, torch.nn.Parameter(X), None, X.detach())
    assert plain_tensor.why_not(names, tensors) is None
    with torch.inference_mode():
        assert plain_tensor.why_not(("x",), (torch.ones(2),)) is None
    with torch.device("cpu"):  # a mode for functions that make tensors
        assert plain_tensor.why_not(names, tensors) is None


def test_classes_of_parameters_that_add_nothing_to_their_memory_are_read_by_address() -> None:
    """A class of parameters is torch's own tensor; one that takes part in torch's dispatch is not."""

    class Named(torch.nn.Parameter):
        pass

    class Counting(torch.nn.Parameter):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return super().__torch_function__(func, types, args, kwargs or {})

    plain = torch.nn.Parameter(torch.ones(2))
    assert plain_tensor.why_not(["weight", "bias"], [Watched(torch.ones(2)), Named(torch.ones(2))]) is None
    assert plain_tensor.why_not(["weight"], [plain]) is None
    assert "Counting" in str(plain_tensor.why_not(["weight"], [Counting(torch.ones(2))]))


def test_classes_made_in_a_loop_are_not_kept_for_ever() -> None:
    made = []
    for _ in range(300):
        kind = type("Made", (torch.Tensor,), {})
        plain_tensor.why_not(("x",), (torch.zeros(1).as_subclass(kind),))
        made.append(weakref.ref(kind))
    del kind
    gc.collect()
    assert sum(reference() is not None for reference in made) <= 256
