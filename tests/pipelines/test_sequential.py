"""One model on the device at a time. Here is but one device: moves are recorded, and what they do to a model is done in place."""

from __future__ import annotations

import pytest
import torch
from support.recorders import ClosureRecorder

from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.pipelines import GlidePipeline, Stage
from glide_fast.runtime.model import Accelerated

HOST, CARD = torch.device("cpu"), torch.device("cuda", 0)


class Moved(Stage):
    """A stage that claims to be where it was moved to last."""

    def __init__(self, stage: Stage, name: str, log: list[tuple[str, str]]) -> None:
        super().__init__(stage.model, stage.options)
        self.name, self.log, self.place = name, log, CARD

    @property
    def device(self) -> torch.device:
        return self.place

    def move(self, device: torch.device) -> None:
        if self.place != device:
            self.place = device
            self.log.append((self.name, device.type))


@pytest.fixture
def log() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def moved(base: Stage, upsampler: Stage, log: list[tuple[str, str]]) -> GlidePipeline:
    return GlidePipeline(Moved(base, "base", log), Moved(upsampler, "upsampler", log))


def test_one_model_is_on_the_device_at_a_time(moved: GlidePipeline, log: list[tuple[str, str]]) -> None:
    assert not moved.sequential_stages
    for stage in moved.stages:
        moved.bring(stage)
    assert log == [], "without it, both stay"
    moved.enable_sequential_stages()
    assert moved.sequential_stages
    assert moved.device == CARD
    for stage in (*moved.stages, *moved.stages):
        moved.bring(stage)
        assert [other.device for other in moved.stages if other is not stage] == [HOST]
        assert stage.device == moved.device == CARD
        moved.enable_sequential_stages()  # again changes nothing
    there, back = [("base", "cpu"), ("upsampler", "cuda")], [("upsampler", "cpu"), ("base", "cuda")]
    assert log == [("upsampler", "cpu"), *there, *back, *there]
    log.clear()
    moved.disable_sequential_stages()
    assert log == [("base", "cuda")]
    assert not moved.sequential_stages
    moved.disable_sequential_stages()
    assert log == [("base", "cuda")]


def test_on_a_cpu_it_changes_nothing(fast_pipe: GlidePipeline) -> None:
    want = make(fast_pipe)
    loops = [len(stage.loops) for stage in fast_pipe.stages]
    weights = [next(stage.model.parameters()) for stage in fast_pipe.stages]
    fast_pipe.enable_sequential_stages()
    assert torch.equal(make(fast_pipe), want)
    assert [len(stage.loops) for stage in fast_pipe.stages] == loops == [1, 1]
    assert all(a is next(s.model.parameters()) for a, s in zip(weights, fast_pipe.stages, strict=True))
    fast_pipe.to("cpu", "fp32")
    assert fast_pipe.sequential_stages
    fast_pipe.disable_sequential_stages()
    assert torch.equal(make(fast_pipe), want)


def make(pipe: GlidePipeline) -> torch.Tensor:
    return pipe("a red circle", seed=5, output_type="pt", progress=False).images


def test_an_accelerated_model_works_where_it_was_moved_to(
    fast_pipe: GlidePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move gives every weight another place in memory, and may leave nothing where they were."""
    stage = fast_pipe.base
    assert stage is not None
    model = stage.model
    assert isinstance(model, Accelerated)
    plain_weights(model)
    stage.recorder = recorder = ClosureRecorder()
    want = make(fast_pipe)
    before = model.addresses()
    films = model._films.weight

    def to_copies(device: torch.device) -> None:
        torch.nn.Module._apply(model, torch.clone)
        model.restart()

    monkeypatch.setattr(model, "move", to_copies)
    stage.__class__ = type("Elsewhere", (Stage,), {"device": torch.device("cpu", 1)})
    stage.move(HOST)
    stage.__class__ = Stage
    assert model.addresses() != before
    assert len(stage.loops) == 0
    assert recorder.recordings[0].released
    assert model._films.weight is not films
    layer = model._torso.residuals[0].emb_layers[1]
    assert layer.weight.data_ptr() == model._films.weight.data_ptr(), "joined again, not held twice"
    assert torch.equal(make(fast_pipe), want)
    assert len(recorder.recordings) == 2


def test_weights_move_to_another_device_as_they_are_laid_out(fast_pipe: GlidePipeline) -> None:
    """``to`` refuses that for an accelerated model; here the other device is torch's device without values."""
    model = fast_pipe.stages[0].model
    assert isinstance(model, Accelerated)
    plain_weights(model)
    before = {name: (p.shape, p.stride(), p.dtype) for name, p in model.named_parameters()}
    model.move(torch.device("meta"))
    assert {name: (p.shape, p.stride(), p.dtype) for name, p in model.named_parameters()} == before
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}
    assert model._films.weight.device.type == "meta"


def plain_weights(model: Accelerated) -> None:
    """As on a GPU: no packed weights, sums deferred."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, PackedWeight):
                module._parameters[name] = torch.nn.Parameter(parameter.dense(), requires_grad=False)
    model._defer = True
    model.restart()
