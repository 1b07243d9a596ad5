"""A pipeline's next picture after its weights were edited, in whatever way: the plain pipeline's with the same edit."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from support.edits import COUNTED, RAW, Edit, delta_for, in_plain_memory, names

from glide_fast.pipelines import GlidePipeline

OPTIONS: dict[str, Any] = {"seed": 5, "output_type": "pt", "progress": False}
WAYS = {name: COUNTED[name] for name in ("p.data += d", "p.data = p.data + d")} | RAW


def psnr(got: torch.Tensor, want: torch.Tensor) -> float:
    """In dB, of pictures in [0, 1]."""
    error = float((got - want).square().mean())
    return -10 * math.log10(error) if error else math.inf


@pytest.fixture
def own_pipe(pipe: GlidePipeline) -> GlidePipeline:
    """A plain pipeline of the test's own, to edit."""
    return copy.deepcopy(pipe)


def apply(edit: Edit, fast: Any, plain: Any, what: str, size: float = 1.0) -> None:
    """The same edit of one class of weights, or of ``"all"``, in both models."""
    for each, name in names(plain).items():
        parameter = fast.get_parameter(name)
        if what not in (each, "all") or (edit in RAW.values() and not in_plain_memory(parameter)):
            continue
        delta = delta_for(plain.get_parameter(name)) * size
        edit(parameter, delta)
        with torch.no_grad():
            plain.get_parameter(name).add_(delta)


def drawn_alike(fast: GlidePipeline, plain: GlidePipeline) -> torch.Tensor:
    got, want = fast(["a", ""], **OPTIONS), plain(["a", ""], **OPTIONS)
    assert psnr(got.low_res, want.low_res) > 60 and psnr(got.images, want.images) > 60
    images: torch.Tensor = got.images
    return images


def test_the_next_picture_has_the_edit(fast_pipe: GlidePipeline, own_pipe: GlidePipeline) -> None:
    before = drawn_alike(fast_pipe, own_pipe)
    for edit in WAYS.values():
        for stage, plain in zip(fast_pipe.stages, own_pipe.stages, strict=True):
            # A little, because a network of random weights magnifies what differs.
            apply(edit, stage.model, plain.model, "all", size=0.05)
        after = drawn_alike(fast_pipe, own_pipe)
        assert psnr(after, before) < 50
        before = after
    assert len(fast_pipe.stages[0].loops) == 1, "the loops are kept"


def test_of_each_class_of_weights_that_something_is_made_of(
    fast_pipe: GlidePipeline, own_pipe: GlidePipeline
) -> None:
    before = drawn_alike(fast_pipe, own_pipe)
    for what in ("text keys", "text transformer", "token embedding", "shortcut", "FiLM", "first bias"):
        for stage, plain in zip(fast_pipe.stages, own_pipe.stages, strict=True):
            apply(RAW["numpy"], stage.model, plain.model, what)
        after = drawn_alike(fast_pipe, own_pipe)
        assert not torch.equal(after, before), what
        before = after


@pytest.mark.parametrize("way", ["p.data += d", "numpy"])
def test_a_plain_pipelines_empty_prompt_has_the_edit(own_pipe: GlidePipeline, way: str) -> None:
    own_pipe("a", **OPTIONS)
    for stage in own_pipe.stages:
        parameter = stage.model.get_parameter("transformer.resblocks.0.mlp.c_fc.weight")
        (COUNTED | RAW)[way](parameter, delta_for(parameter))
    fresh = copy.deepcopy(own_pipe)
    fresh.refresh()
    assert torch.equal(own_pipe("a", **OPTIONS).images, fresh("a", **OPTIONS).images)


def test_refresh_forgets_and_changes_no_picture(
    fast_pipe: GlidePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fast_pipe.base is not None
    want = fast_pipe("a", **OPTIONS).images
    encoded: list[int] = []
    transformer = type(fast_pipe.base.model.transformer)
    run = transformer.forward
    monkeypatch.setattr(transformer, "forward", lambda self, x: encoded.append(len(x)) or run(self, x))
    fast_pipe("a", **OPTIONS)
    assert encoded == [1, 1], "each stage encodes the prompt; the empty one is remembered"
    fast_pipe.refresh()
    assert torch.equal(fast_pipe("a", **OPTIONS).images, want)
    assert encoded == [1, 1, 1, 1, 1]
