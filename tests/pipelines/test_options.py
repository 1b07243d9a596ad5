"""An option of a call is declared once, and everything else about it follows from there."""

from __future__ import annotations

import inspect
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

from glide_fast.errors import InvalidInputError
from glide_fast.pipelines import GlidePipeline, PipelineOutput
from glide_fast.pipelines.options import DECLARED, DEFAULTS, CallOptions, Loop, SamplingOptions
from glide_fast.pipelines.saved_settings import check_settings
from glide_fast.runtime.torso import Torso

METHODS = (
    GlidePipeline.__call__,
    GlidePipeline.inpaint,
    GlidePipeline.image_to_image,
    GlidePipeline.upsample,
)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_methods_show_each_option_with_its_default_and_what_it_means(method: Callable[..., Any]) -> None:
    parameters = inspect.signature(method).parameters
    types = {name: known.__forward_arg__ for name, known in CallOptions.__annotations__.items()}
    assert types.keys() == DECLARED.keys()
    for field in fields(SamplingOptions):
        parameter = parameters[field.name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default == (None if field.name in DEFAULTS else field.default)
        assert parameter.annotation == types[field.name], "what type checkers know is what help() shows"
        assert f"\n    {field.name}: {DECLARED[field.name].help}"[:60] in (method.__doc__ or "")
    assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    assert get_type_hints(method)["return"] is PipelineOutput


def test_a_misspelt_option_is_named(pipe: GlidePipeline, pictures: torch.Tensor) -> None:
    calls: list[Callable[..., Any]] = [
        lambda **wrong: pipe("a dog", **wrong),
        lambda **wrong: pipe.inpaint("a dog", pictures, keep_mask=torch.ones(32, 32), **wrong),
        lambda **wrong: pipe.image_to_image("a dog", pictures, **wrong),
        lambda **wrong: pipe.upsample(pictures[..., :16, :16], **wrong),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"'guidance_scal'; accepted: .*guidance_scale"):
            call(guidance_scal=2.0)


def test_the_record_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        SamplingOptions().sampler = "ddim"  # type: ignore[misc]
    assert vars(SamplingOptions()).keys() == DECLARED.keys()


def test_options_are_described_without_torch() -> None:
    code = "import sys, glide_fast.pipelines.options; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_of_types_that_no_file_has_are_refused() -> None:
    for name, value in (("num_inference_steps", np.int64(3)), ("guidance_interval", (np.int64(0), 1))):
        with pytest.raises(InvalidInputError, match=f"^{name}"):
            check_settings({name: value})
    check_settings({"num_inference_steps": 3, "guidance_interval": [0, 1], "note": np.int64(3)})


def test_features_may_be_kept_for_longer_than_any_run(fast_pipe: GlidePipeline) -> None:
    """From one full step on all are shallow, whether ten or ten million would have been."""
    run = {"num_inference_steps": 3, "upsample_steps": 3, "seed": 1, "output_type": "pt", "progress": False}
    check_settings({"cache_interval": 10_000_000})
    want, got = (fast_pipe("a dog", cache_interval=steps, **run).images for steps in (10, 10_000_000))
    assert torch.equal(got, want)


CHANGES: dict[str, Any] = {
    "num_inference_steps": 3,
    "upsample_steps": 3,
    "guidance_scale": 2.0,
    "negative_prompt": "a dog",
    "seed": 4,
    "sampler": "ddim",
    "upsample_sampler": "ddpm",
    "upsample_temp": 0.5,
    "upsample_strength": 0.5,
    "guidance_interval": (0.6, 1),
    "cache_interval": 2,
}


def test_kept_loops_follow_every_option(fast_pipe: GlidePipeline) -> None:
    """After a call with another value, the usual one gives its usual pictures, and needs a new loop only where it must."""
    usual = {"seed": 3, "num_inference_steps": 2, "upsample_steps": 2, "output_type": "pt", "progress": False}

    def images(**changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
        result = fast_pipe("a red circle", **(usual | changes))
        return result.low_res, result.images

    read_by_loops = {name for name, declared in DECLARED.items() if declared.loop is not Loop.OUTSIDE}
    assert CHANGES.keys() == read_by_loops - {"generator"}, "which draws seeds"
    want = images()
    for name, value in CHANGES.items():
        fast_pipe.release()
        changed, again = images(**{name: value}), images()
        assert all(map(torch.equal, again, want)), name
        assert not all(map(torch.equal, changed, want)), name
        new = sum(len(stage.loops) for stage in fast_pipe.stages) - 2
        assert new == (len(DECLARED[name].stages) if DECLARED[name].loop is Loop.FIXED else 0), name


def test_eight_frames_from_a_call_to_the_torso(
    fast_pipe: GlidePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods and functions, the torso's included; what decorators and locks put around them is not counted."""
    run, stacks = Torso.__call__, []

    def listening(self: Torso, *args: Any, **kwargs: Any) -> torch.Tensor:
        stack = list(traceback.walk_stack(sys._getframe()))
        if all(frame.f_code.co_name != "choose_backends" for frame, _ in stack):  # that is before a run
            stacks.append(stack)
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Torso, "__call__", listening)
    fast_pipe("a red circle", progress=False)
    assert len(stacks) == 7
    for stack in stacks:
        codes = [frame.f_code for frame, _ in stack]
        names = [code.co_name for code in codes]
        within = codes[names.index("listening") : names.index("test_eight_frames_from_a_call_to_the_torso")]
        own = [
            code for code in within if "fair_lock" not in code.co_filename and code.co_freevars != ("method",)
        ]
        assert len(own) <= 8, [code.co_name for code in own]
