"""One call of group_norm_act: its tensors and options, how they lie in memory, and what the choice of a backend rests on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from glide_fast.ops import plain_tensor
from glide_fast.ops.layout import channel_rows

RESAMPLINGS = ("nearest_x2", "mean_2x2")
TENSORS = ("x", "weight", "bias", "scale", "shift", "x2", "residual", "x_bias")
"""The arguments that are tensors; the first three are always there."""


class Facts(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # x's, as in torch.device.type
    dtype: torch.dtype  # of x, x2, residual and the sum
    affine_dtype: torch.dtype  # of weight
    film_dtype: torch.dtype | None  # of scale; None without FiLM
    alike: (
        bool  # bias like weight and shift like scale; each, and x_bias, dense over channels and on x's device
    )
    channels_last: bool  # x, x2 and residual
    empty: bool
    gradients: bool
    out_dtype: torch.dtype  # of y
    x2: bool = False
    residual: bool = False
    x_bias_dtype: torch.dtype | None = None  # None without x_bias
    writes_sum: bool = False  # the sum is wanted, and is not x itself
    resample: str | None = None
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)

    @property
    def extras(self) -> str:
        """The names of what goes beyond norm, FiLM and SiLU in x's own type; empty where nothing does."""
        given = {
            "x2": self.x2,
            "residual": self.residual,
            "x_bias": self.x_bias_dtype is not None,
            "keep_sum": self.writes_sum,
            "resample": self.resample is not None,
            "out_dtype": self.out_dtype != self.dtype,
        }
        return ", ".join(name for name, present in given.items() if present)


class Result(NamedTuple):
    """What a backend returns."""

    y: torch.Tensor
    sum: torch.Tensor | None  # None unless the call keeps it


@dataclass(slots=True)
class Call:
    """Checked arguments of :func:`glide_fast.ops.group_norm_act`, under their names there, as backends' ``run`` takes them."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    groups: int
    eps: float = 1e-5
    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    silu: bool = False
    x2: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    x_bias: torch.Tensor | None = None
    resample: str | None = None
    out_dtype: torch.dtype | None = None
    keep_sum: bool = False

    # Strides between samples and between positions (layout.channel_rows); None where channels do not lie side by side, or
    # where there is no such tensor.
    x_rows: tuple[int, int] | None = field(init=False)
    x2_rows: tuple[int, int] | None = field(init=False)
    residual_rows: tuple[int, int] | None = field(init=False)

    def __post_init__(self) -> None:
        self.x_rows = channel_rows(self.x)
        self.x2_rows = None if self.x2 is None else channel_rows(self.x2)
        self.residual_rows = None if self.residual is None else channel_rows(self.residual)

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """Those that :data:`TENSORS` names."""
        return (
            *(self.x, self.weight, self.bias, self.scale, self.shift),
            *(self.x2, self.residual, self.x_bias),
        )

    @property
    def channels(self) -> int:
        """Of x and x2 together."""
        return self.weight.shape[0]

    @property
    def positions(self) -> int:
        """Of one sample of x (not of y, which may be resampled)."""
        count = 1
        for size in self.x.shape[2:]:
            count *= size
        return count

    @property
    def adds(self) -> bool:
        """Whether what is normalised is a sum that is not in memory yet."""
        return self.residual is not None or self.x_bias is not None

    def facts(self) -> Facts:
        """The facts of this call, for ``OP.choose`` and ``OP.explain``."""
        x, weight, scale, shift = self.x, self.weight, self.scale, self.shift
        device, affine_dtype, film_dtype = x.device, weight.dtype, None
        gradients, alike = x.requires_grad, True
        for p in (weight, self.bias):
            alike = alike and p.dtype == affine_dtype and p.device == device and p.stride(-1) == 1
            gradients = gradients or p.requires_grad
        if scale is not None and shift is not None:
            film_dtype = scale.dtype
            for p in (scale, shift):
                alike = alike and p.dtype == film_dtype and p.device == device and p.stride(-1) == 1
                gradients = gradients or p.requires_grad
        channels_last = self.x_rows is not None
        if self.x2 is not None:
            channels_last = channels_last and self.x2_rows is not None
            gradients = gradients or self.x2.requires_grad
        if self.residual is not None:
            channels_last = channels_last and self.residual_rows is not None
            gradients = gradients or self.residual.requires_grad
        if self.x_bias is not None:
            alike = alike and self.x_bias.device == device and self.x_bias.stride(-1) == 1
            gradients = gradients or self.x_bias.requires_grad
        return Facts(
            device.type,
            x.dtype,
            affine_dtype,
            film_dtype,
            alike,
            channels_last,
            x.numel() == 0,
            gradients and torch.is_grad_enabled(),
            self.out_dtype or x.dtype,
            self.x2 is not None,
            self.residual is not None,
            None if self.x_bias is None else self.x_bias.dtype,
            self.keep_sum and self.adds,
            self.resample,
            plain_tensor.why_not(TENSORS, self.tensors),
        )

    def empty_y(self) -> torch.Tensor:
        """Memory for y: channels-last where x is (a channel slice of a wider tensor included), otherwise contiguous."""
        n, _, *spatial = self.x.shape
        if self.resample == "nearest_x2":
            spatial = [2 * size for size in spatial]
        elif self.resample == "mean_2x2":
            spatial = [size // 2 for size in spatial]
        return self._empty((n, self.channels, *spatial), self.out_dtype or self.x.dtype)

    def empty_sum(self) -> torch.Tensor:
        """Memory for the sum, laid out as y is."""
        return self._empty(self.x.shape, self.x.dtype)

    def empty_result(self) -> Result:
        """Memory for what a backend returns; a sum that adds nothing to x is x itself."""
        total = None
        if self.keep_sum:
            total = self.empty_sum() if self.adds else self.x
        return Result(self.empty_y(), total)

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if self.x_rows is None:
            return torch.empty(shape, dtype=dtype, device=self.x.device)
        n, channels, *spatial = shape
        return torch.empty((n, *spatial, channels), dtype=dtype, device=self.x.device).movedim(-1, 1)


def in_batches(call: Call, result: Result, most: int) -> Iterator[tuple[Call, Result]]:
    """The call and the memory for its result, cut into runs of at most ``most`` samples: a GPU's grid is no larger."""
    samples = call.x.shape[0]
    if samples <= most:
        yield call, result
        return
    for start in range(0, samples, most):
        run = slice(start, start + most)
        part = replace(
            call,
            x=call.x[run],
            x2=_rows_of(call.x2, run),
            residual=_rows_of(call.residual, run),
            scale=_rows_of(call.scale, run),
            shift=_rows_of(call.shift, run),
        )
        yield part, Result(result.y[run], _rows_of(result.sum, run))


def _rows_of(tensor: torch.Tensor | None, run: slice) -> torch.Tensor | None:
    return None if tensor is None else tensor[run]
