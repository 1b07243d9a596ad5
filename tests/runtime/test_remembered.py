"""What is remembered for a tensor is not given again when the tensor's values have changed, however they were written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.small_unets import SIZE, call_arguments, states, tiny_model

from glide_fast.runtime import accelerate
from glide_fast.runtime.remembered import Remembered

TIMES = torch.tensor([3, 700])

WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "in place": lambda t: t.zero_(),
    ".data": lambda t: t.data.zero_(),
    "numpy": lambda t: t.numpy().fill(0),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("write", WRITES)
def test_a_changed_tensor_is_computed_anew(write: str, inference: bool) -> None:
    memory: Remembered[float] = Remembered()
    with torch.inference_mode(inference):
        source = torch.ones(3)
        calls: list[float] = []

        def make() -> float:
            calls.append(float(source.sum()))
            return calls[-1]

        assert [memory.get([source, None], make) for _ in range(2)] == [3.0, 3.0] and calls == [3.0]
        WRITES[write](source)
        assert [memory.get([source, None], make) for _ in range(2)] == [0.0, 0.0] and calls == [3.0, 0.0]


@pytest.mark.parametrize("kind", ["base", "upsampler"])
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("write", WRITES)
def test_a_model_sees_prompts_and_pictures_that_were_written_to(
    kind: str, inference: bool, write: str
) -> None:
    model = tiny_model(kind)
    fast = accelerate(model, dtype="fp32", image_size=SIZE)
    with torch.inference_mode(inference), torch.no_grad():
        arguments = {name: value.clone() for name, value in call_arguments(kind).items()}
        fast(states(), TIMES, **arguments)
        for name in arguments.keys() - {"mask"}:
            WRITES[write](arguments[name])
            got, want = (m(states(), TIMES, **arguments) for m in (fast, model))
            torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("name", ["xf_proj", "xf_out"])
def test_a_callers_write_to_an_encoded_prompt_is_not_handed_out_again(
    name: str, write: str, inference: bool
) -> None:
    fast: Any = accelerate(tiny_model("base"), dtype="fp32", image_size=SIZE)
    arguments = call_arguments("base")
    with torch.inference_mode(inference), torch.no_grad():
        first = fast.encode_text(**arguments)
        assert fast.encode_text(**arguments)[name] is first[name], "remembered"
        want, picture = first[name].clone(), fast(states(), TIMES, **arguments)
        WRITES[write](first[name])
        assert torch.equal(fast.encode_text(**arguments)[name], want)
        assert torch.equal(fast(states(), TIMES, **arguments), picture)


def test_an_encoded_prompt_may_be_given_other_tensors() -> None:
    fast: Any = accelerate(tiny_model("base"), dtype="fp32", image_size=SIZE)
    arguments = call_arguments("base")
    with torch.no_grad():
        first = fast.encode_text(**arguments)
        want = first.pop("xf_out")
        first["xf_proj"] = torch.zeros(3)
        again = fast.encode_text(**arguments)
    assert again["xf_out"] is want and again["xf_proj"].shape != (3,)
