"""Backends are chosen when a loop is made: its runs only look the choices up."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glide_fast.errors import BackendError
from glide_fast.ops.backends import Backend, Op, force, ops
from glide_fast.pipelines import GlidePipeline
from glide_fast.runtime.captured import CapturedLoop


@pytest.fixture
def decided_in_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ops whose backend is chosen while a loop runs, with what the choice rested on; none is remembered beforehand."""
    found: list[str] = []
    running: list[object] = []
    decide, run = Op._decide, CapturedLoop.run

    def recorded_decide(op: Op[Any], *facts: Any) -> Backend[Any]:
        if running:
            found.append(f"{op.name}: {facts}")
        return decide(op, *facts)

    def recorded_run(loop: CapturedLoop, *arguments: Any) -> torch.Tensor:
        running.append(loop)
        try:
            return run(loop, *arguments)
        finally:
            running.pop()

    monkeypatch.setattr(Op, "_decide", recorded_decide)
    monkeypatch.setattr(CapturedLoop, "run", recorded_run)
    return found


def forget_choices() -> None:
    for op in ops().values():
        op._choices.clear()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance_scale": None},
        {"guidance_interval": (0.2, 0.6)},
        {"cache_interval": 2},
        {"sampler": "plms"},
        {"sampler": "dpm++2m", "num_inference_steps": 3},
    ],
    ids=str,
)
def test_a_loop_makes_no_choice(
    fast_pipe: GlidePipeline, decided_in_runs: list[str], options: dict[str, Any]
) -> None:
    fast_pipe.release()
    forget_choices()
    fast_pipe("a red cube", seed=1, **options)
    assert not decided_in_runs


def test_nor_does_one_that_paints_into_a_picture(
    fast_inpaint_pipe: GlidePipeline, pictures: torch.Tensor, decided_in_runs: list[str]
) -> None:
    fast_inpaint_pipe.release()
    forget_choices()
    mask = torch.zeros(pictures.shape[-2:])
    mask[: len(mask) // 2] = 1
    fast_inpaint_pipe.inpaint("a red cube", pictures[:1], repaint_mask=mask, seed=1)
    assert not decided_in_runs


def test_a_backend_that_cannot_run_is_refused_before_the_first_step(
    fast_pipe: GlidePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_pipe.release()

    def started(*_: Any) -> torch.Tensor:
        raise AssertionError("a loop ran")

    monkeypatch.setattr(CapturedLoop, "run", started)
    with force(guided_step="cuda"), pytest.raises(BackendError, match="cuda"):
        fast_pipe("a red cube", seed=1)
