"""Pipelines called from several threads: every call's pictures are, bit for bit, those of the same call made alone."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support.recorders import ClosureRecorder
from support.threads import TIMEOUT, in_threads

from glide_fast.errors import ReentrantCallError
from glide_fast.pipelines import GlidePipeline, Stage, StepEnd

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


@pytest.mark.parametrize("accelerated", [True, False])
def test_autocast_changes_no_call_and_no_later_one(
    fast_pipe: GlidePipeline, pipe: GlidePipeline, accelerated: bool
) -> None:
    tried = fast_pipe if accelerated else pipe
    arguments = calls(3 if accelerated else 2)  # the third caches features
    want = [tried(**options) for options in arguments]
    tried.release()
    tried.refresh()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = [tried(**options) for options in arguments]
        assert torch.is_autocast_enabled("cpu")
    after = [tried(**options) for options in arguments]
    assert [same(*pair) for pair in zip(within + after, want * 2, strict=True)] == [True] * 2 * len(want)


def test_modes_of_a_thread_stay_its_own(fast_pipe: GlidePipeline) -> None:
    """What is kept between calls serves callers of every mode: no buffer of the first one's is an inference tensor."""
    options = calls(1)[0]
    want = fast_pipe(**options)
    fast_pipe.release()
    for modes in (
        [torch.inference_mode()],
        [],
        [torch.enable_grad()],
        [torch.inference_mode(), torch.enable_grad()],
    ):
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            assert same(fast_pipe(**options), want)


REFUSED: dict[str, Callable[[GlidePipeline, Any], object]] = {
    "call": lambda pipe, path: pipe(**calls(1)[0]),
    "inpaint": lambda pipe, path: pipe.inpaint("a", None),
    "image_to_image": lambda pipe, path: pipe.image_to_image("a", None),
    "upsample": lambda pipe, path: pipe.upsample(torch.zeros(3, 16, 16), **QUIET),
    "release": lambda pipe, path: pipe.release(),
    "to": lambda pipe, path: pipe.to(dtype="bf16"),
    "accelerate": lambda pipe, path: pipe.accelerate(),
    "enable_sequential_stages": lambda pipe, path: pipe.enable_sequential_stages(),
    "disable_sequential_stages": lambda pipe, path: pipe.disable_sequential_stages(),
    "enable_whole_loop_capture": lambda pipe, path: pipe.enable_whole_loop_capture(),
    "another pipeline of its stages": lambda pipe, path: GlidePipeline(pipe.base, pipe.upsampler)(
        "a", **QUIET
    ),
    "another pipeline of its model": lambda pipe, path: GlidePipeline(again(pipe.base))("a", **QUIET),
    "its stage": lambda pipe, path: pipe.base.to(torch.device("cpu"), torch.bfloat16),  # type: ignore[union-attr]
}


def again(stage: Stage | None) -> Stage:
    """Another stage of the same model."""
    assert stage is not None
    return Stage(stage.model, stage.options)


@pytest.mark.parametrize("accelerated", [True, False])
def test_what_would_break_the_running_call_is_refused_in_its_callback(
    pipe: GlidePipeline, fast_pipe: GlidePipeline, tmp_path: Path, accelerated: bool
) -> None:
    used = fast_pipe if accelerated else pipe
    options = calls(1)[0]
    want = used(**options)
    state = torch.random.get_rng_state()
    seen: list[str] = []

    def callback(step: StepEnd) -> None:
        if step.stage != "base" or step.index:
            return
        for name, attempt in REFUSED.items():
            with pytest.raises(ReentrantCallError, match="called within a call that is still running"):
                attempt(used, tmp_path)
            seen.append(name)
        used.save_pretrained(tmp_path / "saved")

    assert same(used(callback_on_step_end=callback, **options), want)
    assert seen == list(REFUSED)
    assert torch.equal(torch.random.get_rng_state(), state), "nothing was drawn for what was refused"
    assert (tmp_path / "saved").is_dir()
    assert same(used(**options), want)


def half(x0: torch.Tensor) -> torch.Tensor:
    """In [0, 1], and as small as an upsampler without a base model reads."""
    return torch.nn.functional.avg_pool2d((x0.clamp(-1, 1) + 1) / 2, 2)


def test_a_callback_may_use_another_pipeline_and_the_model(
    fast_pipe: GlidePipeline, pipe: GlidePipeline
) -> None:
    """A preview by the stage that does not run, a pipeline of other models, the model itself between two steps."""
    assert fast_pipe.base is not None
    options = calls(1)[0]
    want = fast_pipe(**options)
    preview = GlidePipeline(None, fast_pipe.upsampler)
    seen: list[Any] = []

    def callback(step: StepEnd) -> None:
        if step.stage != "base":
            return
        seen.append(preview.upsample(half(step.x0), upsample_steps=1, seed=1, **QUIET).images)
        seen.append(pipe(**options).images)
        text = fast_pipe.base.prompts.encode(["a"])  # type: ignore[union-attr]
        seen.append(fast_pipe.base.model(step.x0, torch.zeros(1), text=text))  # type: ignore[union-attr]

    assert same(fast_pipe(callback_on_step_end=callback, **options), want)
    assert len(seen) == 6


def test_pipelines_that_share_a_stage_or_a_model(fast_pipe: GlidePipeline) -> None:
    """Their calls in six threads; and callbacks that call each other's pipelines leave no thread waiting for ever."""
    arguments = calls(12)
    alone = [fast_pipe(**options) for options in arguments]
    others = [
        fast_pipe,
        GlidePipeline(fast_pipe.base, fast_pipe.upsampler, settings=fast_pipe.settings),
        GlidePipeline(again(fast_pipe.base), again(fast_pipe.upsampler), settings=fast_pipe.settings),
    ]
    work = [lambda i=i: others[i % 3](**arguments[i]) for i in range(12)]
    got = in_threads(6, work)
    assert [same(*pair) for pair in zip(got, alone, strict=True)] == [True] * 12


def test_two_pipelines_whose_callbacks_call_each_other(fast_pipe: GlidePipeline) -> None:
    assert fast_pipe.base is not None
    pipes = [GlidePipeline(copy.deepcopy(fast_pipe.base), settings=fast_pipe.settings) for _ in range(2)]
    options = {"prompt": "a", "seed": 1, "num_inference_steps": 1, **QUIET}
    together = threading.Barrier(2)

    def call(mine: GlidePipeline, other: GlidePipeline) -> Any:
        def callback(step: StepEnd) -> None:
            together.wait(TIMEOUT)
            other(**options)

        return mine(callback_on_step_end=callback, **options)

    got = in_threads(2, [lambda: call(*pipes), lambda: call(*reversed(pipes))])
    assert sorted(type(g).__name__ for g in got) == ["PipelineOutput", "ReentrantCallError"]
    assert same(pipes[0](**options), pipes[1](**options))


def test_moving_releasing_and_saving_take_turns_with_calls(fast_pipe: GlidePipeline, tmp_path: Path) -> None:
    arguments = calls(6)
    alone = [fast_pipe(**options) for options in arguments]
    meanwhile: list[Callable[[], Any]] = [
        fast_pipe.release,
        lambda: fast_pipe.to("cpu", "fp32"),
        lambda: fast_pipe.save_pretrained(tmp_path / "saved"),
        fast_pipe.enable_sequential_stages,
        fast_pipe.disable_sequential_stages,
        fast_pipe.enable_whole_loop_capture,
    ]
    work = [step for i in range(6) for step in (lambda i=i: fast_pipe(**arguments[i]), meanwhile[i])]
    got = in_threads(4, work)
    assert [same(*pair) for pair in zip(got[::2], alone, strict=True)] == [True] * 6
    assert [g for g in got[1::2] if isinstance(g, BaseException)] == []


def test_an_interrupted_or_failed_call_gives_its_turn_back(fast_pipe: GlidePipeline) -> None:
    """In the call, and while it waits for another thread's."""
    options = calls(1)[0]
    want = fast_pipe(**options)
    for error in (KeyboardInterrupt, ValueError, SystemExit):

        def fail(step: StepEnd, error: type[BaseException] = error) -> None:
            raise error

        with pytest.raises(error):
            fast_pipe(callback_on_step_end=fail, **options)
    inside, go = threading.Event(), threading.Event()

    def hold(step: StepEnd) -> None:
        inside.set()
        go.wait(TIMEOUT)

    results: list[Any] = []
    holder = threading.Thread(
        target=lambda: results.append(fast_pipe(callback_on_step_end=hold, **options)), daemon=True
    )
    holder.start()
    assert inside.wait(TIMEOUT)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            fast_pipe(**options)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert holder.is_alive()
    go.set()
    holder.join(TIMEOUT)
    assert same(results[0], want)
    assert same(fast_pipe(**options), want)


def test_a_generator_shared_by_threads_gives_each_call_seeds_in_a_row(fast_pipe: GlidePipeline) -> None:
    options = calls(1)[0] | {"prompt": ["a", "b"], "seed": None}
    generator = torch.Generator().manual_seed(3)
    got = in_threads(3, [lambda: fast_pipe(generator=generator, **options)] * 6)
    generator.manual_seed(3)
    row = [torch.randint(2**53, (), generator=generator).item() for _ in range(12)]
    assert sorted(tuple(g.seeds) for g in got) == sorted(zip(row[::2], row[1::2], strict=True))
    assert same(got[0], fast_pipe(**options | {"seed": got[0].seeds}))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("accelerated", [True, False])
def test_torchs_defaults_of_a_thread_change_nothing(
    pipe: GlidePipeline, fast_pipe: GlidePipeline, accelerated: bool
) -> None:
    used = fast_pipe if accelerated else pipe
    options = calls(1)[0] | {"cache_interval": 1}
    want = used(**options)
    for default in (torch.device("meta"), default_dtype(torch.float64), default_dtype(torch.bfloat16)):
        used.release()
        with default:
            got = used(**options)
        assert same(got, want), default
        assert same(used(**options), want), default


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_while_another_thread_draws(fast_pipe: GlidePipeline) -> None:
    options = calls(1)[0]
    want = fast_pipe(**options)
    inside, go = threading.Event(), threading.Event()

    def hold(step: StepEnd) -> None:
        inside.set()
        go.wait(TIMEOUT)

    holder = threading.Thread(target=lambda: fast_pipe(callback_on_step_end=hold, **options), daemon=True)
    holder.start()
    assert inside.wait(TIMEOUT)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            status = 0 if same(fast_pipe(**options), want) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    go.set()
    holder.join(TIMEOUT)
    assert same(fast_pipe(**options), want)
