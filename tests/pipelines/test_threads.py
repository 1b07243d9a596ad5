"""Pipelines called from several threads: every call's pictures are, bit for bit, those of the same call made alone."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from support.recorders import ClosureRecorder
from support.threads import in_threads

#from glide_fast.errors import ReentrantCallError
from glide_fast.pipelines import GlidePipeline, StepEnd

QUIET: dict[str, Any] = {"output_type": "pt", "progress": False}
WORDS = ["a red circle", "two dogs", "", "a star", "blue", "the sea"]
KINDS: list[dict[str, Any]] = [
    {"sampler": "ddpm"},
    {"sampler": "dpm++2m", "guidance_scale": 4.5, "negative_prompt": "a cat"},
    {"sampler": "ddim", "guidance_scale": 1.0, "cache_interval": 2},
]


def calls(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Arguments of ``count`` calls: each loop serves several of them, with other prompts, seeds and batches."""
    steps = {"num_inference_steps": 2, "upsample_steps": 1}
    return [
        QUIET
        | steps
        | KINDS[i % 3]
        | {"prompt": [WORDS[(i + j) % 6] for j in range(1 + i // 3 % 2)], "seed": start + 1000 * i}
        for i in range(count)
    ]


def same(got: Any, want: Any) -> bool:
    return torch.equal(got.images, want.images) and torch.equal(got.low_res, want.low_res)


@pytest.mark.parametrize(("threads", "start"), [(2, 0), (6, 7331)])
def test_one_pipeline_in_several_threads(fast_pipe: GlidePipeline, threads: int, start: int) -> None:
    arguments = calls(24, start)
    alone = [fast_pipe(**options) for options in arguments]
    fast_pipe.release()
    got = in_threads(threads, [lambda options=options: fast_pipe(**options) for options in arguments])
    assert [same(*pair) for pair in zip(got, alone, strict=True)] == [True] * 24


def test_recorded_loops_in_several_threads(fast_pipe: GlidePipeline) -> None:
    for stage in fast_pipe.stages:
        stage.recorder = ClosureRecorder()
    fast_pipe.enable_whole_loop_capture()
    arguments = calls(8)
    alone = [fast_pipe(**options) for options in arguments]
    got = in_threads(4, [lambda options=options: fast_pipe(**options) for options in arguments])
    assert [same(*pair) for pair in zip(got, alone, strict=True)] == [True] * 8


def test_modes_of_a_thread_stay_its_own(fast_pipe: GlidePipeline) -> None:
    """What is kept between calls serves callers of every mode: no buffer of the first one's is an inference tensor."""
    options = calls(1)[0]
    want = fast_pipe(**options)
    fast_pipe.release()
    for modes in ([torch.inference_mode()], [], [torch.enable_grad()], [torch.inference_mode(), torch.enable_grad()]):
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            assert same(fast_pipe(**options), want)
