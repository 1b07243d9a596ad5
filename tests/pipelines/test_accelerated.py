"""Pipelines on the fast runtime, in fp32: the plain pipelines' pictures, from loops that are kept between calls."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.recorders import ClosureRecorder

from glide_fast.models.clip import CLIPModel
from glide_fast.pipelines import GlidePipeline, StepEnd
from glide_fast.pipelines.conditioning import doubled
from glide_fast.runtime.captured import EagerLoopWarning

OPTIONS: dict[str, Any] = {"output_type": "pt", "progress": False, "seed": 5}
PROMPTS = ["a red circle", "two dogs"]


def close(got: Any, want: Any) -> None:
    # Another prompt, seed or step moves the mean by 0.005 and more; single pixels amplify rounding.
    for mine, theirs in ((got.low_res, want.low_res), (got.images, want.images)):
        assert (mine - theirs).abs().mean() < 1e-4
        assert (mine - theirs).abs().max() < 0.02
    assert (got.seeds, got.prompts) == (want.seeds, want.prompts)


MASK = torch.zeros(32, 32)
MASK[:, :16] = 1
CALLS: dict[str, Callable[[GlidePipeline, torch.Tensor], Any]] = {
    "text to image": lambda pipe, _: pipe(PROMPTS, negative_prompt="a cat", **OPTIONS),
    "unguided": lambda pipe, _: pipe(PROMPTS, guidance_scale=1.0, sampler="plms", **OPTIONS),
    "image to image": lambda pipe, images: pipe.image_to_image(PROMPTS, images, 0.5, **OPTIONS),
    "inpaint": lambda pipe, images: pipe.inpaint(
        PROMPTS, images, keep_mask=MASK, sampler="dpm++2m", **OPTIONS
    ),
    "partly upsampled": lambda pipe, _: pipe(PROMPTS, upsample_strength=0.6, **OPTIONS),
    "guided in part": lambda pipe, _: pipe(PROMPTS, guidance_interval=(0.2, 0.8), **OPTIONS),
}


@pytest.mark.parametrize("call", list(CALLS))
def test_the_plain_pipelines_pictures(
    pipe: GlidePipeline, fast_pipe: GlidePipeline, pictures: torch.Tensor, call: str
) -> None:
    assert fast_pipe.accelerated
    assert not pipe.accelerated
    close(CALLS[call](fast_pipe, pictures), CALLS[call](pipe, pictures))


def test_models_that_see_what_is_kept(
    inpaint_pipe: GlidePipeline, fast_inpaint_pipe: GlidePipeline, pictures: torch.Tensor
) -> None:
    for call in ("inpaint", "text to image"):
        close(CALLS[call](fast_inpaint_pipe, pictures), CALLS[call](inpaint_pipe, pictures))
    got = CALLS["inpaint"](fast_inpaint_pipe, pictures).images
    torch.testing.assert_close(got[..., :16], pictures[..., :16], rtol=0, atol=1e-5)


def test_the_upsampler_alone(pipe: GlidePipeline, fast_pipe: GlidePipeline) -> None:
    small = torch.rand(2, 3, 16, 16)
    close(fast_pipe.upsample(small, PROMPTS, **OPTIONS), pipe.upsample(small, PROMPTS, **OPTIONS))


def test_a_loop_serves_later_calls_whatever_they_ask_for(fast_pipe: GlidePipeline) -> None:
    """New prompts, seeds, scales and callbacks, compared with pipelines that never made another picture."""
    loops = [recorded(stage) for stage in fast_pipe.stages]
    fresh = copy.deepcopy(fast_pipe.base), copy.deepcopy(fast_pipe.upsampler)
    fast_pipe(PROMPTS, **OPTIONS)
    seen: list[StepEnd] = []
    changes = {
        "seed": [7, 2**40],
        "guidance_scale": 1.5,
        "negative_prompt": "x",
        "callback_on_step_end": seen.append,
    }
    got = fast_pipe(["a", "b"], **OPTIONS | changes)
    assert [len(recorder.recordings) for recorder in loops] == [1, 1]
    assert [recorder.recordings[0].replays for recorder in loops] == [8, 6]
    want = GlidePipeline(*fresh, settings=fast_pipe.settings)(["a", "b"], **OPTIONS | changes)
    assert torch.equal(got.images, want.images)
    assert [(s.stage, s.index, s.total) for s in seen] == 2 * [
        *(("base", i, 4) for i in range(4)),
        *(("upsampler", i, 3) for i in range(3)),
    ]
    assert torch.equal(seen[3].x0, seen[10].x0), "what a callback was given stays as it was"

    fast_pipe("one", **OPTIONS)
    assert [len(recorder.recordings) for recorder in loops] == [2, 2], "another batch is another loop"
    fast_pipe.release()
    assert [len(stage.loops) for stage in fast_pipe.stages] == [0, 0]
    assert all(recording.released for recorder in loops for recording in recorder.recordings)
    assert torch.equal(fast_pipe(["a", "b"], **OPTIONS | changes).images, want.images)


def recorded(stage: Any) -> ClosureRecorder:
    stage.recorder = ClosureRecorder()
    return stage.recorder  # type: ignore[no-any-return]


def test_a_loop_that_nobody_watches_can_be_recorded_whole(fast_pipe: GlidePipeline) -> None:
    want = fast_pipe(PROMPTS, **OPTIONS).images
    loops = [recorded(stage) for stage in fast_pipe.stages]
    fast_pipe.enable_whole_loop_capture()
    for _ in range(2):
        assert torch.equal(fast_pipe(PROMPTS, **OPTIONS).images, want)
    assert [[recording.replays for recording in recorder.recordings] for recorder in loops] == [[2], [2]]

    seen: list[StepEnd] = []
    watched = fast_pipe(PROMPTS, **OPTIONS | {"callback_on_step_end": seen.append})
    assert torch.equal(watched.images, want)
    assert len(seen) == 7
    assert [recorder.recordings[1].replays for recorder in loops] == [4, 3], "step by step"

    fast_pipe.enable_whole_loop_capture(False)
    assert all(recording.released for recorder in loops for recording in recorder.recordings)
    assert torch.equal(fast_pipe(PROMPTS, **OPTIONS).images, want)
    assert [recorder.recordings[2].replays for recorder in loops] == [4, 3]


def test_keys_of_the_text_stay_as_attention_reads_them(fast_pipe: GlidePipeline) -> None:
    """A token's channels side by side; another layout has no fast kernel, and no layer after it would be in a fast one."""
    assert fast_pipe.base is not None
    prompts = fast_pipe.base.prompts
    text = doubled(prompts.encode(["a", "", "b"]), prompts.encode(["", "", "c"]))
    assert text is not None
    assert text["keys"]
    for keys in text["keys"]:
        assert len(keys) == 6
        assert keys.transpose(1, 2).is_contiguous()


def test_a_callback_that_stops_a_run_spoils_nothing(fast_pipe: GlidePipeline) -> None:
    want = fast_pipe(PROMPTS, **OPTIONS)

    def stop(step: StepEnd) -> None:
        if step.stage == "upsampler":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fast_pipe(["other", "words"], callback_on_step_end=stop, **OPTIONS)
    assert torch.equal(fast_pipe(PROMPTS, **OPTIONS).images, want.images)


def test_edited_weights_take_effect_in_kept_loops(fast_pipe: GlidePipeline) -> None:
    assert fast_pipe.base is not None
    model = fast_pipe.base.model
    first = fast_pipe(PROMPTS, **OPTIONS)
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    for name in (
        "input_blocks.1.0.out_layers.3.weight",
        "middle_block.0.emb_layers.1.weight",
        "token_embedding.weight",
    ):
        with torch.no_grad():
            model.get_parameter(name).mul_(1.5)
        edited = fast_pipe(PROMPTS, **OPTIONS)
        assert (edited.low_res - first.low_res).abs().mean() > 1e-3, name
        again = GlidePipeline(copy.deepcopy(fast_pipe.base), settings=fast_pipe.settings)(PROMPTS, **OPTIONS)
        assert (edited.low_res - again.low_res).abs().mean() < 1e-3, name
        model.load_state_dict(saved)
    assert torch.equal(fast_pipe(PROMPTS, **OPTIONS).images, first.images)


def test_clip_guidance_runs_launch_by_launch_and_says_so_once(
    base_only: GlidePipeline, fast_pipe: GlidePipeline, clip: CLIPModel
) -> None:
    assert fast_pipe.base is not None
    options = OPTIONS | {"clip": clip, "clip_guidance_scale": 20.0, "sampler": "ddim"}
    want = base_only(PROMPTS, **options)
    alone = GlidePipeline(fast_pipe.base, settings=fast_pipe.settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recorder = recorded(fast_pipe.base)
        got = alone(PROMPTS, **options)
    assert [w.category for w in caught] == [EagerLoopWarning]
    assert recorder.recordings == []
    assert (got.images - want.images).abs().mean() < 2e-3


def test_precision_can_be_changed_and_changed_back(fast_pipe: GlidePipeline) -> None:
    want = fast_pipe(PROMPTS, **OPTIONS)
    assert fast_pipe.to(dtype="bf16") is fast_pipe
    assert fast_pipe.accelerated
    assert fast_pipe.dtype == torch.bfloat16
    got = fast_pipe(PROMPTS, **OPTIONS)
    assert 0 < (got.low_res - want.low_res).abs().mean() < 0.1
    fast_pipe.to("cpu", torch.float32)
    assert fast_pipe.dtype == torch.float32
    again = fast_pipe(PROMPTS, **OPTIONS)
    assert (again.low_res - got.low_res).abs().mean() < 0.1  # the weights stay rounded
    assert fast_pipe.to("cpu", "fp32").base is not None
    assert len(fast_pipe.base.loops) == 1, "nothing to convert, nothing to release"  # type: ignore[union-attr]


def test_a_saved_pipeline_holds_the_weights(
    pipe: GlidePipeline, fast_pipe: GlidePipeline, tmp_path: Path
) -> None:
    want = fast_pipe(PROMPTS, **OPTIONS)
    fast_pipe.save_pretrained(tmp_path / "saved")
    for mine, plain in zip(fast_pipe.stages, pipe.stages, strict=True):
        for name, value in plain.model.state_dict().items():
            assert torch.equal(mine.model.state_dict()[name], value), name
    again = GlidePipeline.from_pretrained(tmp_path / "saved", device="cpu", dtype="fp32")
    assert again.accelerated
    assert torch.equal(again(PROMPTS, **OPTIONS).images, want.images)


def test_cached_features_change_little_and_are_for_accelerated_pipelines(fast_pipe: GlidePipeline) -> None:
    whole = fast_pipe(PROMPTS, **OPTIONS)
    assert torch.equal(fast_pipe(PROMPTS, cache_interval=1, **OPTIONS).images, whole.images)
    cached = fast_pipe(PROMPTS, cache_interval=2, **OPTIONS)
    assert 0 < (cached.low_res - whole.low_res).abs().mean() < 0.5


def test_the_peak_of_memory_is_told(fast_pipe: GlidePipeline) -> None:
    """At least what the weights take, at most what this machine's test process can have."""
    weights = sum(
        p.numel() * p.element_size() for stage in fast_pipe.stages for p in stage.model.parameters()
    )
    peak = fast_pipe(PROMPTS, **OPTIONS).peak_memory
    assert peak is not None
    assert weights < peak < 2**40
    ballast = torch.ones(peak // 4)  # as much again
    later = fast_pipe(PROMPTS, **OPTIONS).peak_memory
    assert later is not None
    assert later >= ballast.nbytes
