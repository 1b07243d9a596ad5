"""Convolutions in fp8: how far they err beside fp16, what a calibration does, and that nothing of it happens by default."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.small_unets import call_arguments, states, tiny_model

from glide_fast.errors import InvalidInputError
from glide_fast.ops.case import relative_error
from glide_fast.runtime import accelerate
from glide_fast.runtime.derived import Derived
from glide_fast.runtime.features import Features
from glide_fast.runtime.fp8 import (
    LARGEST,
    Fp8Convolution,
    calibrating,
    quantised_weight,
    quantised_windows,
    suits,
    weight_scales,
)
from glide_fast.runtime.model import Accelerated

SIZE = 16
TIMES = torch.tensor([700, 700])


def operands(inputs: int = 64, outputs: int = 32, side: int = 8) -> tuple[torch.Tensor, torch.nn.Conv2d]:
    """What a norm with SiLU leaves, and a convolution whose outputs are of different sizes."""
    generator = torch.Generator().manual_seed(0)
    x = F.silu(torch.randn(2, inputs, side, side, generator=generator))
    module = torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False).requires_grad_(False)
    sizes = torch.logspace(-2, 1, outputs)[:, None, None, None]
    with torch.no_grad():
        module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * sizes)
    half = x.half().to(memory_format=torch.channels_last)
    return half, module.half().to(memory_format=torch.channels_last)


def test_it_is_the_convolution_to_the_digits_of_e4m3() -> None:
    """Each factor errs by up to 2^-4, 2.6e-2 in the mean square; over a sum such errors do not add up relative to it."""
    x, module = operands()
    quantised = Fp8Convolution(module, Derived)
    quantised.observe(x)
    truth = F.conv2d(x.double(), module.weight.double(), padding=1)
    y = quantised(x)
    assert y.dtype == torch.float16 and y.is_contiguous(memory_format=torch.channels_last)
    half = F.conv2d(x.float(), module.weight.float(), padding=1).half()
    in_fp8, in_fp16 = relative_error([y], [truth]), relative_error([half], [truth])
    assert in_fp8 <= 0.05 and in_fp16 <= 5e-4
    for channel in range(y.shape[1]):  # each has a scale of its own
        assert relative_error([y[:, channel]], [truth[:, channel]]) <= 0.06
    # The sum itself is exact: the error is that of the factors.
    scale, scales = quantised.largest / LARGEST, weight_scales(module.weight)
    exact = quantised_windows(x, scale).double() @ quantised_weight(module.weight).double().t()
    rounded = (exact * scale * scales).view(2, 8, 8, -1).permute(0, 3, 1, 2)
    assert relative_error([y], [rounded]) <= 5e-4


@pytest.mark.gpu
def test_a_device_multiplies_as_the_cpu_does() -> None:
    x, module = operands()
    on_cpu, on_gpu = (Fp8Convolution(module.to(device), Derived) for device in ("cpu", "cuda"))
    on_gpu.observe(x.cuda())
    found = on_gpu(x.cuda()).cpu()
    module.to("cpu")
    on_cpu.observe(x)
    assert relative_error([found], [on_cpu(x)]) <= 1e-3


def test_windows_lie_as_those_of_the_norm() -> None:
    x, _ = operands(16, 16, 3)
    windows = quantised_windows(x, torch.tensor(1.0)).float().view(2, 3, 3, 9, 16)
    middle = x.float().to(torch.float8_e4m3fn).float().permute(0, 2, 3, 1)
    assert torch.equal(windows[:, :, :, 4], middle)
    assert torch.equal(windows[:, 1:, 1:, 0], middle[:, :-1, :-1])
    assert bool((windows[:, 0, :, :3] == 0).all()) and bool((windows[:, :, 2, 2::3] == 0).all())


def test_beyond_the_calibration_values_are_cut_and_nan_stays() -> None:
    x = torch.tensor([1e9, -1e9, float("nan"), 1.0]).view(1, 4, 1, 1)
    row = quantised_windows(x, torch.tensor(1.0)).float()[0, 16:20]
    assert row[0] == LARGEST and row[1] == -LARGEST and row[2].isnan() and row[3] == 1


def test_a_weight_of_zeros_and_an_input_of_zeros_give_zeros() -> None:
    x, module = operands(16, 16, 8)
    with torch.no_grad():
        module.weight[3] = 0
    quantised = Fp8Convolution(module, Derived)
    with pytest.raises(RuntimeError, match="before its calibration"):
        quantised(x)
    quantised.observe(torch.zeros_like(x))
    assert not quantised(torch.zeros_like(x)).any()
    quantised.observe(x)
    assert not quantised(x)[:, 3].any() and bool(quantised(x)[:, 4].any())


@pytest.mark.parametrize(
    ("dtype", "channels", "kernel", "side", "expected"),
    [
        (torch.float16, 64, 3, 8, True),
        (torch.bfloat16, 64, 3, 32, True),
        (torch.float32, 64, 3, 8, False),
        (torch.float16, 24, 3, 8, False),
        (torch.float16, 64, 1, 8, False),
        (torch.float16, 64, 3, 64, False),
        (torch.float16, 64, 3, 4, False),
    ],
)
def test_which_convolutions_suit(
    dtype: torch.dtype, channels: int, kernel: int, side: int, expected: bool
) -> None:
    assert suits(torch.empty(channels, channels, kernel, kernel, dtype=dtype), side, side) == expected


def deferred(features: Features) -> Accelerated:
    fast = accelerate(tiny_model("no-text"), dtype="bf16", image_size=SIZE, features=features)
    assert isinstance(fast, Accelerated)
    fast.start(defer=True, batch=2, image_size=SIZE, features=features)
    return fast


def test_a_calibrated_model_predicts_nearly_the_same() -> None:
    model, arguments = deferred(Features(fp8=True, packed_weights=False)), call_arguments("no-text")
    with torch.no_grad():
        before = model(states(), TIMES, **arguments)
        with calibrating(model):
            during = model(states(), TIMES, **arguments)
        after = model(states(), TIMES, **arguments)
        plain = tiny_model("no-text")(states(), TIMES, **arguments)
    convolutions = model._torso.convolve.in_fp8
    assert torch.equal(before, during) and convolutions
    assert all(one.largest is not None and one.largest > 0 for one in convolutions.values())
    assert not torch.equal(before, after)
    assert relative_error([before], [plain]) <= 0.03
    assert relative_error([after], [plain]) <= 0.2


def test_an_edited_weight_is_quantised_anew() -> None:
    model, arguments = deferred(Features(fp8=True, packed_weights=False)), call_arguments("no-text")
    with torch.no_grad():
        with calibrating(model):
            model(states(), TIMES, **arguments)
        before = model(states(), TIMES, **arguments)
        for block in model._torso.residuals:
            block.in_layers[2].weight.data.mul_(0.5)
        assert not torch.equal(model(states(), TIMES, **arguments), before)


def test_what_a_recording_reads_has_moved_after_an_edit_and_after_a_calibration() -> None:
    model, arguments = deferred(Features(fp8=True, packed_weights=False)), call_arguments("no-text")

    def calibrated() -> object:
        with calibrating(model):
            model(states(), TIMES, **arguments)
        model(states(), TIMES, **arguments)
        return model.addresses()

    with torch.no_grad():
        before = model.addresses()
        first = calibrated()
        model._torso.residuals[0].in_layers[2].weight.data.mul_(0.5)
        model(states(), TIMES, **arguments)
        edited = model.addresses()
        assert len({before, first, edited, calibrated()}) == 4
        model(states(), TIMES, **arguments)
        assert model.addresses() == model.addresses()


def test_a_calibration_that_sees_nothing_leaves_the_model_in_half_precision() -> None:
    model, arguments = deferred(Features(fp8=True, packed_weights=False)), call_arguments("no-text")
    with torch.no_grad():
        want = model(states(), TIMES, **arguments)
        for _ in range(2):
            with calibrating(model):
                model(states(), TIMES, **arguments)
        with calibrating(model):
            pass
        assert torch.equal(model(states(), TIMES, **arguments), want)


def test_only_a_model_that_was_made_for_it_is_calibrated() -> None:
    for model in (tiny_model("no-text"), deferred(Features())):
        with pytest.raises(InvalidInputError, match=r"^model: got"), calibrating(model):
            pass
    assert not Features().fp8
