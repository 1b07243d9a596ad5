"""An accelerated model, and what is bound to it, called from several threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.small_unets import SIZE, call_arguments, tiny_model
from support.threads import TIMEOUT, in_threads

from glide_fast.errors import InvalidInputError
from glide_fast.runtime import accelerate
from glide_fast.runtime.model import Accelerated

SHAPE = (3, SIZE, SIZE)


def fast_model(kind: str) -> Accelerated:
    model = accelerate(tiny_model(kind, 0), dtype="fp32", image_size=SIZE)
    assert isinstance(model, Accelerated)
    return model


def forwards(model: Accelerated, kind: str, start: int = 0) -> list[Callable[[], torch.Tensor]]:
    """Calls with other prompts, pictures, states, timesteps and batches; each prompt and picture in several calls."""
    made: list[Callable[[], torch.Tensor]] = []
    for i in range(24):
        batch = 1 + i % 2
        arguments = call_arguments(kind, batch, start + i % 7)
        x = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(start + i))
        times = torch.full((batch,), float(37 * i))
        made.append(lambda a=arguments, x=x, t=times: model(x, t, **a))
    return made


@pytest.mark.parametrize(("kind", "threads"), [("base", 2), ("upsampler-inpaint", 6)])
def test_one_model_in_several_threads(kind: str, threads: int) -> None:
    model = fast_model(kind)
    work = forwards(model, kind, 100 * threads)
    alone = [call() for call in work]
    model.refresh()
    changed = [*work, *([model.refresh] * 6)]
    got = in_threads(threads, changed)
    assert [torch.equal(*pair) for pair in zip(got[:24], alone, strict=True)] == [True] * 24
    assert got[24:] == [None] * 6


def test_loops_bound_to_one_model_and_one_loop_in_several_threads() -> None:
    model = fast_model("base")
    steps = [900, 500, 100]

    def bound(seed: int) -> Any:
        arguments = call_arguments("base", 2, seed)
        return model.bind(steps, 2, SHAPE, text=model.encode_text(**arguments))

    loops = [bound(seed) for seed in range(3)]

    def call(i: int) -> torch.Tensor:
        loop = loops[i % 3]
        inputs = loop.empty_inputs(2, SHAPE)
        inputs.copy_(torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(i)))
        rows = torch.full((2,), i // 3 % len(steps))
        return loop(inputs, rows, rows).clone()

    alone = [call(i) for i in range(24)]
    got = in_threads(6, [lambda i=i: call(i) for i in range(24)])
    assert [torch.equal(*pair) for pair in zip(got, alone, strict=True)] == [True] * 24


def test_modes_of_a_thread_stay_its_own() -> None:
    """Buffers and memories made under inference mode serve threads without it, and the other way round."""
    model, arguments = fast_model("base"), call_arguments("base", 2, 1)
    x, times = torch.randn(2, *SHAPE), torch.tensor([10.0, 500.0])
    want = model(x, times, **arguments)
    with torch.inference_mode():
        text = model.encode_text(**arguments)
        loop = model.bind([500, 10], 2, SHAPE, text=text)
    model.refresh()

    def call(mode: Any) -> torch.Tensor:
        with mode:
            loop.renew(text=text)
            return model(x, times, **arguments)

    modes = [torch.inference_mode, torch.enable_grad, torch.no_grad, lambda: torch.inference_mode(False)]
    got = in_threads(4, [lambda m=m: call(m()) for m in modes * 3])
    assert [torch.equal(g, want) for g in got] == [True] * 12


def test_a_copy_made_during_a_call_is_free() -> None:
    model, arguments = fast_model("base"), call_arguments("base", 1, 1)
    x, times = torch.randn(1, *SHAPE), torch.tensor([10.0])
    want = model(x, times, **arguments)
    copies: list[Accelerated] = []
    assert torch.equal(model.lock.run(lambda: copies.append(copy.deepcopy(model)) or want), want)
    done: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: done.append(copies[0](x, times, **arguments)), daemon=True)
    model.lock.run(lambda: (thread.start(), thread.join(TIMEOUT)))
    assert torch.equal(done[0], want)


def test_a_prompt_that_another_thread_forgets_is_still_used_by_the_call_that_found_it() -> None:
    """``cache_text_emb``, as in the official package: another prompt is an error until ``del_cache``."""
    model, arguments = tiny_model("base", 0), call_arguments("base", 1, 1)
    model.cache_text_emb = True
    x, times = torch.randn(1, *SHAPE), torch.tensor([10.0])
    with torch.no_grad():
        want = model(x, times, **arguments)

        class Forgotten(dict[str, torch.Tensor]):
            def __getitem__(self, name: str) -> torch.Tensor:
                model.cache = None
                return super().__getitem__(name)

        assert model.cache is not None
        model.cache = Forgotten(model.cache)
        assert torch.equal(model(x, times, **arguments), want)
        model(x, times, **arguments)
        with pytest.raises(InvalidInputError, match="or del_cache"):
            model(x, times, **call_arguments("base", 1, 2))
