"""Convolutions as products of windows, and the last one in fp16, as a GPU runs them: in a network whose sums are deferred."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.small_unets import SIZE, call_arguments, states, tiny_model

from glide_fast.ops import backends
from glide_fast.ops.convolution import ways
from glide_fast.runtime import accelerate, torso
from glide_fast.runtime.features import ALL, Features
from glide_fast.runtime.model import Accelerated
from glide_fast.runtime.torso import Convolver

TIMES = torch.tensor([700, 700])


def deferred(kind: str, features: Features = ALL) -> Accelerated:
    fast = accelerate(tiny_model(kind), dtype="fp32", image_size=SIZE, features=features)
    assert isinstance(fast, Accelerated)
    fast.start(defer=True, batch=2, image_size=SIZE, features=features)
    return fast


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 3x3 convolution behind a norm reads windows, in fp32 too."""

    def reads_windows(self: Any, module: Any, x: torch.Tensor, resampled: str | None = None) -> bool:
        return bool(self.features.windows) and tuple(module.weight.shape[2:]) == (3, 3)

    monkeypatch.setattr(Convolver, "reads_windows", reads_windows)


def calls_of(model: Accelerated, **arguments: Any) -> tuple[torch.Tensor, list[str]]:
    """A prediction, and the op of each call."""
    seen: list[str] = []
    with torch.no_grad(), backends.listen(lambda choice: seen.append(choice.op.name)):
        return model(states(), TIMES, **arguments), seen


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", ["base", "upsampler", "added-embedding", "strided"])
def test_a_network_of_windows_predicts_what_the_plain_one_does(kind: str, fused: bool) -> None:
    arguments = call_arguments(kind)
    got, seen = calls_of(deferred(kind, Features(fused_sums=fused)), **arguments)
    with torch.no_grad():
        want = tiny_model(kind)(states(), TIMES, **arguments)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)
    model = deferred(kind)
    assert seen.count("window_convolution") == 2 * len(model._torso.residuals)
    assert seen.count("output_convolution") == 1


@pytest.mark.usefixtures("everywhere")
def test_left_out_neither_runs() -> None:
    _, seen = calls_of(
        deferred("base", Features(windows=False, output_convolution=False)), **call_arguments("base")
    )
    assert "window_convolution" not in seen and "output_convolution" not in seen


class _Layer:
    def __init__(self, outputs: int, inputs: int, dtype: torch.dtype, kernel: int = 3) -> None:
        self.weight = torch.empty(outputs, inputs, kernel, kernel, dtype=dtype, device="meta")


def test_which_convolutions_read_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def fastest(*sizes: int) -> str:
        asked.append(sizes)
        return ways.WINDOWS

    monkeypatch.setattr(torso.ways, "fastest", fastest)
    on_gpu, half, x = Convolver(True), torch.float16, torch.empty(2, 96, 8, 4, device="meta")
    assert on_gpu.reads_windows(_Layer(48, 96, half), x)
    assert on_gpu.reads_windows(_Layer(48, 96, half), x, "nearest_x2")
    assert on_gpu.reads_windows(_Layer(48, 96, torch.bfloat16), x, "mean_2x2")
    assert asked == [(2, 32, 96, 48), (2, 128, 96, 48), (2, 8, 96, 48)]
    assert not on_gpu.reads_windows(_Layer(48, 96, torch.float32), x)
    assert not on_gpu.reads_windows(_Layer(48, 96, half, kernel=1), x)
    assert not Convolver(False).reads_windows(_Layer(48, 96, half), x)
    assert not Convolver(True, Features(windows=False)).reads_windows(_Layer(48, 96, half), x)


def test_the_last_norm_leaves_fp16_to_a_network_in_fp16_alone() -> None:
    """A network in bf16 keeps fp32 there: bf16 has three bits less."""
    for dtype, want in ((torch.float16, torch.float16), (torch.bfloat16, torch.float32)):
        model = tiny_model("no-text")
        model.convert_to(dtype)
        inputs: list[torch.dtype] = []

        def listener(choice: backends.Choice, inputs: list[torch.dtype] = inputs) -> None:
            if choice.op.name == "output_convolution":
                inputs.append(choice.call.x.dtype)

        network = torso.Torso(model, defer=True)
        films = [torch.zeros(1, 2 * block.out_channels) for block in network.residuals]
        conditioning = torso.Conditioning(films, [None] * len(network.attentions))
        x = torch.randn(1, 3, SIZE, SIZE).to(dtype, memory_format=torch.channels_last)
        with torch.no_grad(), backends.listen(listener):
            y = network(x, conditioning)
        assert inputs == [want] and y.dtype == torch.float32
