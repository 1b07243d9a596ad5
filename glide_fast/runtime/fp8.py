"""3x3 convolutions in fp8 on a GPU: off by default, because a picture changes, and because nobody has timed them.

Pixels and weights are rounded to e4m3 (four bits of significand, Micikevicius et al. 2022). Weights have a scale for each output
channel, pixels one for a whole tensor, from a calibration run. The product is ``torch._scaled_mm``, for which an NVIDIA H100 has
twice the peak of fp16; sums are in fp32. Only levels of 8 to 32 pixels are convolved so: there the products weigh most, beside
what a picture of that size costs to convert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from glide_fast.errors import invalid
from glide_fast.runtime.derived import Derived

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
LEAST_SIDE, MOST_SIDE = 8, 32
MULTIPLE = 16
"""Of channels, which the matrix product wants."""
OLDEST = (9, 0)
"""Compute capability from which products scaled by row and column are used here."""

Derive = Callable[..., Derived]


def weight_scales(weight: torch.Tensor) -> torch.Tensor:
    """What a unit of each output channel of a quantised weight stands for: fp32 ``[O]``, of ``[O, C, 3, 3]``."""
    largest = weight.detach().float().abs().amax(dim=(1, 2, 3))
    return torch.where(largest > 0, largest / LARGEST, 1.0)


def quantised_weight(weight: torch.Tensor) -> torch.Tensor:
    """A weight ``[O, C, 3, 3]`` in e4m3 as the matrix ``[O, 9 C]``, divided by its :func:`weight_scales`."""
    rows = weight.detach().float().permute(0, 2, 3, 1).flatten(1)
    return quantised(rows / weight_scales(weight)[:, None])


def quantised(x: torch.Tensor) -> torch.Tensor:
    """The nearest values of e4m3; what is larger than its largest becomes that, and NaN stays NaN."""
    return x.clamp(-LARGEST, LARGEST).to(E4M3)


def quantised_windows(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The 3x3 windows of ``x`` ``[N, C, H, W]`` divided by ``scale``, in e4m3: ``[N H W, 9 C]``, zeros beyond the picture."""
    # Bytes are moved: few operators know the type.
    rows = quantised(x.float() / scale).permute(0, 2, 3, 1).contiguous().view(torch.uint8)
    windows = F.pad(rows, (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)  # [N, H, W, C, 3, 3]
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1).contiguous().view(E4M3)


class Fp8Convolution:
    """One convolution, once a calibration has seen what it reads.

    Args:
        module: its ``weight`` is ``[O, C, 3, 3]``.
        derive: makes a :class:`Derived`, so that an edited weight is quantised anew.
    """

    def __init__(self, module: Any, derive: Derive) -> None:
        self._weight = derive(lambda: module.weight, quantised_weight, packed=False)
        self._scales = derive(lambda: module.weight, weight_scales, packed=False)
        self._zeros = derive(
            lambda: module.weight, lambda weight: weight.new_zeros(len(weight)), packed=False
        )
        self._calibrations = 0
        self.largest: torch.Tensor | None = None
        """The largest magnitude that a calibration saw, fp32 ``[]``; None before one."""

    def addresses(self) -> tuple[object, ...]:
        """Changes with each tensor that a recording reads besides the model's parameters."""
        return self._calibrations, self._weight.version, self._scales.version, self._zeros.version

    def observe(self, x: torch.Tensor) -> None:
        """Take the magnitudes of ``x`` into account."""
        found = x.detach().abs().amax().float()
        self._calibrations += self.largest is None
        self.largest = found if self.largest is None else torch.maximum(self.largest, found)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution of ``x`` ``[N, C, H, W]`` without bias: ``[N, O, H, W]`` in x's type, channels-last.

        Raises:
            RuntimeError: before a calibration.
        """
        if self.largest is None:
            raise RuntimeError("a convolution in fp8 was called before its calibration")
        n, _, height, width = x.shape
        scale = torch.where(self.largest > 0, self.largest / LARGEST, 1.0)
        windows = quantised_windows(x, scale)
        y = torch._scaled_mm(
            windows,
            self._weight.get(x.shape).t(),
            scale_a=scale.expand(len(windows), 1).contiguous(),
            scale_b=self._scales.get(x.shape)[None],
            bias=self._zeros.get(
                x.shape
            ),  # without one some versions of torch write bf16 into an fp16 result
            out_dtype=x.dtype,
        )
        return y.view(n, height, width, -1).permute(0, 3, 1, 2)


def suits(weight: torch.Tensor, height: int, width: int) -> bool:
    """Whether a convolution of pictures of this size is one of those that run in fp8."""
    if weight.dtype not in (torch.float16, torch.bfloat16) or tuple(weight.shape[2:]) != (3, 3):
        return False
    if weight.shape[0] % MULTIPLE or weight.shape[1] % MULTIPLE:
        return False
    if weight.is_cuda and torch.cuda.get_device_capability(weight.device) < OLDEST:
        return False
    return min(height, width) >= LEAST_SIDE and max(height, width) <= MOST_SIDE


@contextmanager
def calibrating(model: Any) -> Iterator[None]:
    """Within the block, calls of an accelerated model measure what its convolutions in fp8 will read; they still run in fp16.

    Call the model itself, on noisy pictures at early and late timesteps: ``with calibrating(model): model(x, timesteps, ...)``.
    What an earlier calibration saw is forgotten. Afterwards the model runs the convolutions that were seen in fp8, until it is
    moved. A loop that was captured before is recorded anew at its next run.

    Raises:
        InvalidInputError: for a model without ``Features(fp8=True)``, or on a CPU.
    """
    features = getattr(model, "features", None)
    if features is None or not features.fp8 or not model._torso.convolve.defer:
        raise invalid(
            "model", type(model).__name__, "one on a GPU, by accelerate(features=Features(fp8=True))"
        )
    convolve = model._torso.convolve
    for convolution in convolve.in_fp8.values():
        convolution.largest = None
    convolve.observes = True
    try:
        yield
    finally:
        convolve.observes = False
