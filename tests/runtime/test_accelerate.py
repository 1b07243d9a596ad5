"""accelerate(): the same model, faster."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.small_unets import KINDS, SIZE, call_arguments, states, tiny_model

from glide_fast.errors import InvalidInputError
from glide_fast.models.strided import StridedConv2d
from glide_fast.models.unet import UNetModel
from glide_fast.runtime import accelerate
from glide_fast.runtime.model import Accelerated

TIMES = torch.tensor([3, 700])


def accelerated(model: torch.nn.Module, **options: Any) -> Accelerated:
    fast = accelerate(model, image_size=SIZE, **({"dtype": "fp32"} | options))
    assert isinstance(fast, Accelerated)
    return fast


def predict(model: torch.nn.Module, x: torch.Tensor, **arguments: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(x, TIMES[: len(x)], **arguments)
    return out


def deferred(model: Accelerated) -> Accelerated:
    """Its sums are left to the norms, as on a GPU."""
    model.start(defer=True, batch=2, image_size=SIZE)
    return model


def test_a_bf16_model_computes_its_text_in_fp32() -> None:
    """What is left of the error is the weights' rounding; activations in bf16 would err as much again."""
    arguments = call_arguments("base")
    tokens, mask = arguments["tokens"], arguments["mask"]
    rounded = tiny_model("base")
    converted = (rounded.transformer, rounded.transformer_proj, rounded.token_embedding)
    with torch.no_grad():
        for module in (part for room in converted for part in room.modules()):
            if not isinstance(module, torch.nn.LayerNorm):
                for parameter in module.parameters(recurse=False):
                    parameter.copy_(parameter.bfloat16())
        want = rounded.encode_text(tokens, mask)
        got = accelerated(tiny_model("base"), dtype="bf16").encode_text(tokens, mask)
    for name in ("xf_proj", "xf_out"):
        assert got[name].dtype == torch.float32
        torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("defer", [False, True])
def test_it_predicts_what_the_plain_model_does(kind: str, defer: bool) -> None:
    model, arguments = tiny_model(kind), call_arguments(kind)
    fast = accelerated(model)
    if defer:
        fast = deferred(accelerated(model))
    got, want = predict(fast, states(), **arguments), predict(model, states(), **arguments)
    assert got.is_contiguous()
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


def test_bf16_errs_no_more_than_torchs_own_bf16(kind: str) -> None:
    model, arguments = tiny_model(kind), call_arguments(kind)
    want = predict(model, states(), **arguments)  # fp32
    plain = copy.deepcopy(model)
    plain.convert_to(torch.bfloat16)
    allowed = (predict(plain, states(), **arguments) - want).norm()
    assert (predict(accelerated(model, dtype="bf16"), states(), **arguments) - want).norm() <= 1.2 * allowed


def test_the_state_dict_is_the_plain_models(kind: str) -> None:
    model = tiny_model(kind)
    for dtype in ("fp32", "bf16"):
        state = accelerated(model, dtype=dtype).state_dict()
        assert list(state) == list(model.state_dict())
        for name, value in model.state_dict().items():
            assert type(state[name]) is torch.Tensor
            assert torch.equal(state[name].to(value.dtype), value.to(state[name].dtype).to(value.dtype)), name


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_loaded_weights_take_effect(kind: str, dtype: str) -> None:
    model, other, arguments = tiny_model(kind), tiny_model(kind, seed=5), call_arguments(kind)
    fast = accelerated(model, dtype=dtype)
    predict(fast, states(), **arguments)  # whatever it remembers, it remembers of the old weights
    fast.load_state_dict(other.state_dict())
    want = predict(accelerated(other, dtype=dtype), states(), **arguments)
    assert torch.equal(predict(fast, states(), **arguments), want)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_weights_written_to_in_place_take_effect(kind: str, dtype: str) -> None:
    model, arguments = tiny_model(kind), call_arguments(kind)
    fast = accelerated(model, dtype=dtype)
    predict(fast, states(), **arguments)
    with torch.no_grad():
        for twin, parameter in zip(fast.parameters(), model.parameters(), strict=True):
            twin.mul_(0.5)
            parameter.copy_(parameter.to(twin.dtype) * 0.5)
    want = predict(accelerated(model, dtype=dtype), states(), **arguments)
    assert torch.equal(predict(fast, states(), **arguments), want)


def test_replaced_parameters_take_effect() -> None:
    model, other, arguments = tiny_model("base"), tiny_model("base", seed=5), call_arguments("base")
    fast = accelerated(model)
    predict(fast, states(), **arguments)
    fast.load_state_dict(other.state_dict(), assign=True)
    got, want = predict(fast, states(), **arguments), predict(other, states(), **arguments)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


def test_the_plain_model_is_left_as_it_was(kind: str) -> None:
    model, arguments = tiny_model(kind), call_arguments(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = accelerated(model)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.zero_()
    assert not fast.training
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    model(states(), TIMES, **arguments).sum().backward()  # still one that can be trained


def test_taking_the_weights_over_frees_them() -> None:
    model = tiny_model("base")
    want = predict(model, states(), **call_arguments("base"))
    fast = accelerated(model, take=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == 0
    torch.testing.assert_close(predict(fast, states(), **call_arguments("base")), want, rtol=2e-5, atol=2e-5)


def test_a_plain_copy_and_a_deep_copy(kind: str) -> None:
    model, arguments = tiny_model(kind), call_arguments(kind)
    fast = accelerated(model)
    back = fast.plain()
    assert type(back) is type(model)
    assert torch.equal(predict(back, states(), **arguments), predict(model, states(), **arguments))
    twin = copy.deepcopy(fast)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.zero_()
    torch.testing.assert_close(
        predict(twin, states(), **arguments), predict(model, states(), **arguments), rtol=2e-5, atol=2e-5
    )


def test_a_prompt_is_encoded_once_and_a_new_one_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model, arguments = tiny_model("base"), call_arguments("base")
    fast = accelerated(model)
    calls = []
    run = type(fast.transformer).forward
    monkeypatch.setattr(
        type(fast.transformer), "forward", lambda self, x: calls.append(len(x)) or run(self, x)
    )
    for _ in range(3):
        predict(fast, states(), **arguments)
    assert len(calls) == 1
    changed = call_arguments("base", seed=9)
    got = predict(fast, states(), **changed)
    assert len(calls) == 2
    torch.testing.assert_close(got, predict(model, states(), **changed), rtol=2e-5, atol=2e-5)
    arguments["tokens"].copy_(changed["tokens"])  # the same tensor, other words
    arguments["mask"].copy_(changed["mask"])
    assert torch.equal(predict(fast, states(), **arguments), got)


def test_other_batches_and_sizes_work(kind: str) -> None:
    model = tiny_model(kind)
    fast = accelerated(model)
    for batch in (1, 3):
        arguments, x = call_arguments(kind, batch), states(batch)
        times = torch.arange(batch)
        with torch.no_grad():
            got, want = fast(x, times, **arguments), model(x, times, **arguments)
        torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


def test_positional_arguments_are_those_of_the_plain_model() -> None:
    for kind in ("upsampler", "inpaint", "upsampler-inpaint"):
        model, arguments = tiny_model(kind), call_arguments(kind)
        fast = accelerated(model)
        pictures = [arguments.pop(name) for name in fast.picture_names]
        with torch.no_grad():
            got = fast(states(), TIMES, *pictures, **arguments)
            want = model(states(), TIMES, *pictures, **arguments)
        torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


def test_what_is_not_accepted() -> None:
    fast = accelerated(tiny_model("base"))
    arguments = call_arguments("base")
    with pytest.raises(InvalidInputError, match="no_grad"):
        fast(states().requires_grad_(), TIMES, **arguments)
    with pytest.raises(InvalidInputError, match="tokens"):
        fast(states(), TIMES)
    with pytest.raises(TypeError, match="low_res"):
        fast(states(), TIMES, low_res=states(), **arguments)
    with pytest.raises(InvalidInputError, match="dtype"):
        fast.convert_to(torch.bfloat16)
    with pytest.raises(InvalidInputError, match="input_blocks"):
        accelerate(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", list(KINDS))
def test_a_bound_model_predicts_by_the_steps_place(name: str) -> None:
    model, arguments = tiny_model(name), call_arguments(name)
    fast = accelerated(model)
    told = {key: value for key, value in arguments.items() if key not in ("tokens", "mask")}
    text = fast.encode_text(arguments["tokens"], arguments["mask"]) if "tokens" in arguments else None
    bound = fast.bind([5, 300, 999], 2, (3, SIZE, SIZE), text=text, **told)
    inputs = bound.empty_inputs(2, (3, SIZE, SIZE)).copy_(states())
    for place, timestep in enumerate([5, 300, 999]):
        got = bound(inputs, torch.full((2,), timestep), torch.full((2,), place))
        with torch.no_grad():
            want = model(states(), torch.full((2,), timestep), **arguments)
        torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)
        half = bound(inputs[:1], torch.full((1,), timestep), torch.full((1,), place))
        torch.testing.assert_close(half, want[:1], rtol=2e-5, atol=2e-5)


def test_an_official_instance_is_recognised_by_its_structure(kind: str) -> None:
    model, arguments = tiny_model(kind, vocab_rows=0), call_arguments(kind)
    stranger = as_a_stranger(model)
    assert not isinstance(stranger, UNetModel)
    got = predict(accelerated(stranger), states(), **arguments)
    torch.testing.assert_close(got, predict(model, states(), **arguments), rtol=2e-5, atol=2e-5)


def as_a_stranger(model: torch.nn.Module) -> torch.nn.Module:
    """The same tree with the attributes an official model has, of a class that glide_fast does not know."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, StridedConv2d):
            module.__class__ = torch.nn.Conv2d
        elif type(module).__module__.startswith("glide_fast.models"):
            module.__class__ = type(type(module).__name__, (torch.nn.Module,), {})
    return twin
