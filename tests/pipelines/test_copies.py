"""Pipelines and stages that are pickled, copied and saved by torch: the same pictures, nothing of a run carried along."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import write_pipeline
from torch import nn

from glide_fast.errors import InvalidInputError
from glide_fast.pipelines import GlidePipeline

OPTIONS: dict[str, Any] = {"seed": 5, "output_type": "pt", "progress": False}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("pipelines") / "tiny")


@pytest.mark.parametrize("accelerated", [True, False])
def test_copies_draw_the_same_and_start_without_loops(
    directory: Path, tmp_path: Path, accelerated: bool
) -> None:
    pipe = GlidePipeline.from_pretrained(directory, device="cpu", dtype="fp32", accelerate=accelerated)
    want = pipe("a", **OPTIONS).images
    torch.save(pipe, tmp_path / "pipe.pt")
    twins = [
        copy.deepcopy(pipe),
        pickle.loads(pickle.dumps(pipe)),
        torch.load(tmp_path / "pipe.pt", weights_only=False),
        copy.copy(pipe),
        GlidePipeline(
            copy.copy(pipe.base), pickle.loads(pickle.dumps(pipe.upsampler)), settings=pipe.settings
        ),
    ]
    for twin in twins[:3]:
        assert not any(len(stage.loops) for stage in twin.stages)
        assert not any(
            a is b for s, t in zip(pipe.stages, twin.stages, strict=True) for a, b in [(s.model, t.model)]
        )
    for twin in twins:
        assert twin.accelerated == accelerated and twin.settings == pipe.settings
        assert torch.equal(twin("a", **OPTIONS).images, want)
    assert torch.equal(pipe("a", **OPTIONS).images, want)


def test_an_edit_of_a_copy_is_the_copys(directory: Path) -> None:
    pipe = GlidePipeline.from_pretrained(directory, device="cpu", dtype="fp32")
    want = pipe("a", **OPTIONS).images
    twin = copy.deepcopy(pipe)
    assert twin.base is not None
    twin.base.model.get_parameter("out.2.weight").data *= 2
    assert not torch.equal(twin("a", **OPTIONS).images, want)
    assert torch.equal(pipe("a", **OPTIONS).images, want)


def test_changed_layers_and_hooks_stop_a_call_before_it_draws(directory: Path) -> None:
    pipe = GlidePipeline.from_pretrained(directory, device="cpu", dtype="fp32")
    assert pipe.base is not None
    model: Any = pipe.base.model
    want = pipe("a", **OPTIONS).images  # from now on there is a loop
    layer = model.middle_block[0].in_layers[2]
    for change, undo in (
        (lambda: layer.register_forward_hook(lambda *_: None), lambda handle: handle.remove()),
        (
            lambda: model.middle_block[0].in_layers.__setitem__(2, nn.Sequential(layer)),
            lambda _: model.middle_block[0].in_layers.__setitem__(2, layer),
        ),
        (lambda: model.register_forward_hook(lambda *_: None), lambda handle: handle.remove()),
    ):
        done = change()
        with pytest.raises(InvalidInputError, match=r"model\.plain\(\)"):
            pipe("a", **OPTIONS)
        undo(done)
        assert torch.equal(pipe("a", **OPTIONS).images, want)


def test_a_wrapped_model_draws_as_its_plain_model(directory: Path) -> None:
    """The way that the error names: the plain model has the wrapper's effect."""
    from glide_fast.pipelines import Stage

    pipe = GlidePipeline.from_pretrained(directory, device="cpu", dtype="fp32")
    plain = GlidePipeline.from_pretrained(directory, device="cpu", dtype="fp32", accelerate=False)
    assert pipe.base is not None and plain.base is not None

    class Doubled(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self[0](x) * 2
            return out

    for stage in (pipe.base, plain.base):
        layers: Any = stage.model.middle_block[0].in_layers  # type: ignore[union-attr]
        layers[2] = Doubled(layers[2])
    again = Stage(pipe.base.model.plain(), pipe.base.options)  # type: ignore[operator]
    got = GlidePipeline(again, settings=pipe.settings)("a", **OPTIONS).images
    want = GlidePipeline(plain.base, settings=pipe.settings)("a", **OPTIONS).images
    assert torch.equal(got, want)
