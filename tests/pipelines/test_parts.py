"""Batches that do not fit into memory: networks that run out of it above a number of pictures stand in for small devices."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.recorders import ClosureRecorder

from glide_fast.errors import OutOfMemoryError
from glide_fast.models.clip import CLIPModel
from glide_fast.pipelines import GlidePipeline, SmallerBatchWarning, StepEnd
from glide_fast.pipelines.parts import ran_out_of_memory
from glide_fast.runtime.torso import Torso

NO_MEMORY: list[BaseException] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]

Limit = Callable[[int], None]


@pytest.fixture(params=["plain", "accelerated"])
def any_pipe(request: pytest.FixtureRequest) -> GlidePipeline:
    pipe: GlidePipeline = request.getfixturevalue("pipe" if request.param == "plain" else "fast_pipe")
    yield pipe
    for stage in pipe.stages:  # the plain ones are other tests' too
        stage.part_size = None


@pytest.fixture
def limit(any_pipe: GlidePipeline, monkeypatch: pytest.MonkeyPatch) -> Limit:
    """``limit(rows)``: networks take this many rows at most (two an image where the base is guided)."""

    def set_to(rows: int, error: BaseException = NO_MEMORY[0]) -> None:
        def guard(kind: type, name: str) -> None:
            whole = getattr(kind, name)

            def guarded(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
                if len(x) > rows:
                    raise error
                return whole(self, x, *args, **kwargs)

            monkeypatch.setattr(kind, name, guarded)

        if any_pipe.accelerated:
            guard(Torso, "__call__")
        else:
            for stage in any_pipe.stages:
                guard(type(stage.model), "forward")

    return set_to


def make(pipe: GlidePipeline, count: int, **options: Any) -> Any:
    prompts = ["a red circle", "", "two dogs", "a blue square", "a star"][:count]
    return pipe(prompts, **{"output_type": "pt", "progress": False, "seed": 5} | options)


def same(got: Any, want: Any) -> None:
    # Batches round differently, which these random networks amplify at single pixels; another seed moves all of them.
    for mine, theirs in ((got.low_res, want.low_res), (got.images, want.images)):
        assert (mine - theirs).abs().mean() < 1e-3
        assert (mine - theirs).abs().max() < 0.1
    assert got.seeds == want.seeds


def test_a_batch_is_halved_until_it_fits_and_the_images_are_the_same(
    any_pipe: GlidePipeline, limit: Limit
) -> None:
    want = make(any_pipe, 5)
    any_pipe.release()
    limit(4)
    seen: list[StepEnd] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = make(any_pipe, 5, callback_on_step_end=seen.append)
    same(got, want)
    said = [str(w.message) for w in caught if w.category is SmallerBatchWarning]
    assert [re.findall(r"(\w+): (\d+) images at once .* with (\d+)", text)[0] for text in said] == [
        ("base", "5", "3"),  # six rows with guidance
        ("base", "3", "2"),
        ("upsampler", "5", "3"),
    ]
    parts = [(s.stage, s.first, len(s.x0), s.index) for s in seen]
    assert parts == [
        *(("base", first, count, i) for first, count in ((0, 2), (2, 2), (4, 1)) for i in range(4)),
        *(("upsampler", first, count, i) for first, count in ((0, 3), (3, 2)) for i in range(3)),
    ]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(make(any_pipe, 5), want)  # known by now
    any_pipe.to(dtype="bf16").to(dtype="fp32")
    assert [stage.part_size for stage in any_pipe.stages] == [None, None], "other sizes fit in another type"


def test_inpainting_and_image_to_image_in_parts(
    any_pipe: GlidePipeline, limit: Limit, pictures: torch.Tensor
) -> None:
    mask = torch.zeros(2, 32, 32)
    mask[0, :, :16] = mask[1, 8:] = 1
    options: dict[str, Any] = {"output_type": "pt", "progress": False, "seed": 5}

    def painted() -> Any:
        return any_pipe.inpaint(
            ["a dog", "a cat"], pictures, keep_mask=mask, negative_prompt=["x", "y"], **options
        )

    def changed() -> Any:
        return any_pipe.image_to_image(["a dog", "a cat"], pictures, 0.5, **options)

    want = painted(), changed()
    limit(2)
    with pytest.warns(SmallerBatchWarning):
        same(painted(), want[0])
    same(changed(), want[1])


def test_clip_guidance_in_parts(any_pipe: GlidePipeline, limit: Limit, clip: CLIPModel) -> None:
    options: dict[str, Any] = {"clip": clip, "clip_guidance_scale": 50.0, "guidance_scale": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = make(any_pipe, 2, **options)
        limit(1)
        got = make(any_pipe, 2, **options)
    assert (got.low_res - want.low_res).abs().max() < 3 / 255


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_one_image_that_does_not_fit_is_an_error_that_says_so(
    any_pipe: GlidePipeline, limit: Limit, error: BaseException
) -> None:
    limit(0, error)
    with (
        pytest.warns(SmallerBatchWarning, match="base: 2 images at once .* going on with 1"),
        pytest.raises(OutOfMemoryError, match=r"base: one image of 16 px does not fit .* of cpu; accepted: "),
    ):
        make(any_pipe, 2)


def test_other_errors_are_not_taken_for_want_of_memory(any_pipe: GlidePipeline, limit: Limit) -> None:
    limit(2, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        make(any_pipe, 2)
    assert any_pipe.base is not None
    assert any_pipe.base.part_size is None


def test_what_the_cpus_allocator_raises_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55, dtype=torch.uint8)
    assert ran_out_of_memory(caught.value)


def test_captured_loops_are_released_before_the_next_try(
    fast_pipe: GlidePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fast_pipe.base is not None
    fast_pipe.base.recorder = recorder = ClosureRecorder()
    make(fast_pipe, 1)
    assert [recording.released for recording in recorder.recordings] == [False]
    whole, left = Torso.__call__, []

    def guarded(self: Torso, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if len(x) > 4:
            raise NO_MEMORY[0]
        left.append(sum(not recording.released for recording in recorder.recordings))
        return whole(self, x, *args, **kwargs)

    monkeypatch.setattr(Torso, "__call__", guarded)
    with pytest.warns(SmallerBatchWarning):
        make(fast_pipe, 3)
    assert left[0] == 0
    assert len(recorder.recordings) == 3, "loops of two images and of one are captured, not given up"
