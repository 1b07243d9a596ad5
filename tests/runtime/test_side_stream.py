"""Shortcuts that run beside the main branch: nothing reads them, or writes what they read, before they are joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.small_unets import SIZE, call_arguments, states, tiny_model

from glide_fast.errors import GlideFastError
from glide_fast.runtime import accelerate, torso
from glide_fast.runtime.features import Features
from glide_fast.runtime.model import Accelerated
from glide_fast.runtime.side_stream import SideStream, Started

TIMES = torch.tensor([700, 20])
ON = Features(side_stream=True)


class Late(Started):
    """Work that is done as late as a second stream may do it: when it is joined. Its result is NaN until then."""

    def __init__(self, work: Callable[[], torch.Tensor]) -> None:
        super().__init__(torch.full_like(work(), float("nan")))
        self._work = work
        self.joined = False

    def join(self) -> torch.Tensor:
        self.joined = True
        return self.result.copy_(self._work())


class LateStream(SideStream):
    def __init__(self) -> None:
        super().__init__()
        self.started: list[Late] = []

    def start(self, work: Callable[[], torch.Tensor], device: torch.device) -> Started:
        self.started.append(Late(work))
        return self.started[-1]


def fast(kind: str, features: Features = ON, defer: bool = True) -> tuple[Accelerated, LateStream]:
    model = accelerate(tiny_model(kind), dtype="fp32", image_size=SIZE, features=features)
    assert isinstance(model, Accelerated)
    model.start(defer=defer, batch=2, image_size=SIZE, features=model.features)
    stream = model._torso.convolve.side = LateStream()
    return model, stream


def predicted(model: Any, kind: str) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(states(), TIMES, **call_arguments(kind))
    return result


def test_late_work_gives_the_same_picture(kind: str) -> None:
    model, stream = fast(kind)
    torch.testing.assert_close(
        predicted(model, kind), predicted(tiny_model(kind), kind), rtol=2e-5, atol=2e-5
    )
    assert stream.started and all(work.joined for work in stream.started)


@pytest.mark.parametrize(
    ("features", "defer"),
    [(Features(), True), (Features(side_stream=True, fused_sums=False), True), (ON, False)],
)
def test_where_the_sum_is_not_left_to_the_next_norm_nothing_runs_beside(
    features: Features, defer: bool
) -> None:
    model, stream = fast("base", features, defer)
    predicted(model, "base")
    assert not stream.started


def test_large_shortcuts_stay_in_the_main_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model, stream = fast("base")
    predicted(model, "base")
    everything = len(stream.started)
    monkeypatch.setattr(torso, "BESIDE", 2 * 32 * (SIZE // 2) ** 2)  # of the lower level
    predicted(model, "base")
    assert 0 < len(stream.started) - everything < everything


def test_work_is_joined_where_the_main_branch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a capture would end with a stream that never came back."""
    model, stream = fast("base")

    def fails(*arguments: Any, **options: Any) -> Any:
        raise GlideFastError("out of order")

    monkeypatch.setattr(torso, "normalise", _until(lambda: bool(stream.started), torso.normalise, fails))
    with pytest.raises(GlideFastError, match="out of order"):
        predicted(model, "base")
    assert [work.joined for work in stream.started] == [True]


def _until(seen: Callable[[], bool], first: Any, then: Any) -> Any:
    return lambda *arguments, **options: (then if seen() else first)(*arguments, **options)


def test_on_a_cpu_work_is_done_where_it_is_started() -> None:
    done: list[int] = []
    started = SideStream().start(lambda: done.append(1) or torch.ones(1), torch.device("cpu"))
    assert done == [1]
    assert started.join() is started.result


@pytest.mark.gpu
def test_on_a_device_the_streams_wait_for_each_other() -> None:
    """Both sides are slow, and the memory that they free is used again at once."""
    device = torch.device("cuda")
    side = SideStream()
    weight = torch.randn(4096, 4096, device=device)
    for number in range(20):
        x = (weight @ weight).fill_(number)
        started = side.start(lambda x=x: (weight @ weight).fill_(1) + x, device)
        other = weight @ weight
        total = started.join() + other.zero_()
        del x, other, started
        assert bool((total == number + 1).all())
