"""Whatever is left out of the runtime, the prediction stays the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from support.small_unets import SIZE, call_arguments, states, tiny_model

from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.runtime import accelerate
from glide_fast.runtime.features import Features
from glide_fast.runtime.model import Accelerated

TIMES = torch.tensor([700, 700])
NAMES = [field.name for field in dataclasses.fields(Features)]


def without(name: str, kind: str, defer: bool = False, **options: Any) -> Accelerated:
    features = Features(**{name: False})
    fast = accelerate(tiny_model(kind), dtype="fp32", image_size=SIZE, features=features, **options)
    assert isinstance(fast, Accelerated)
    if defer:
        fast.start(defer=True, batch=2, image_size=SIZE, features=features)
    return fast


@pytest.mark.parametrize("defer", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_call_predicts_what_the_plain_model_does(name: str, kind: str, defer: bool) -> None:
    arguments = call_arguments(kind)
    with torch.no_grad():
        got = without(name, kind, defer)(states(), TIMES, **arguments)
        want = tiny_model(kind)(states(), TIMES, **arguments)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_bound_model_predicts_what_the_plain_one_does(name: str, kind: str) -> None:
    model, arguments = without(name, kind), call_arguments(kind)
    told = {k: v for k, v in arguments.items() if k not in ("tokens", "mask")}
    with torch.no_grad():
        text = model.encode_text(arguments["tokens"], arguments["mask"]) if kind != "no-text" else None
        bound = model.bind([5, 700], 2, (3, SIZE, SIZE), text=text, **told)
        got = bound(states().to(memory_format=torch.channels_last), TIMES, torch.tensor([1, 1]))
        want = tiny_model(kind)(states(), TIMES, **arguments)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


def test_text_that_is_not_cached_is_encoded_at_every_call() -> None:
    arguments = call_arguments("base")
    tokens, mask = arguments["tokens"], arguments["mask"]
    for model, same in ((without("cached_text", "base"), False), (without("share", "base"), True)):
        with torch.no_grad():
            first, second = (model.encode_text(tokens, mask)["xf_out"] for _ in range(2))
        assert (first is second) is same


def test_weights_that_are_not_packed_are_plain_tensors() -> None:
    packed = [isinstance(p, PackedWeight) for p in without("share", "upsampler").parameters()]
    plain = [isinstance(p, PackedWeight) for p in without("packed_weights", "upsampler").parameters()]
    assert not any(plain)
    assert any(packed) is torch.backends.mkldnn.is_available()
