"""One call of group_norm_act: its tensors and options, how they lie in memory, and what the choice of a backend rests on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor, schema
from glide_fast.ops.layout import channel_rows

RESAMPLINGS = ("nearest_x2", "mean_2x2")
TAPS = 9
"""Pixels of a 3x3 window, from the upper left one to the lower right one, a line after the other."""


class Facts(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # x's, as in torch.device.type
    dtype: torch.dtype  # of x, x2, residual and the sum
    affine_dtype: torch.dtype  # of weight
    film_dtype: torch.dtype | None  # of scale; None without FiLM
    x_bias_dtype: torch.dtype | None  # None without x_bias
    alike: bool  # bias like weight, shift like scale; each, and x_bias, dense over channels and on x's device
    channels_last: bool  # x, x2 and residual
    empty: bool
    gradients: bool
    windows: bool = False
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


def why_not(facts: Facts, dtypes: Collection[torch.dtype]) -> str | None:
    """The reasons to decline that all kernels share, for kernels that read and write these types."""
    for name, dtype in (
        ("x", facts.dtype),
        ("weight", facts.affine_dtype),
        ("scale", facts.film_dtype),
        ("x_bias", facts.x_bias_dtype),
    ):
        if dtype is not None and dtype not in dtypes:
            accepted = ", ".join(str(one).removeprefix("torch.") for one in dtypes)
            return f"{name} is {dtype}; the kernels take {accepted}"
    if not facts.alike:
        return "weight and bias, or scale and shift, differ in type, or are not side by side in memory on x's device"
    if facts.gradients:
        return "gradients are wanted; the kernels have no backward pass"
    if facts.empty:
        return "x holds no elements"
    if not facts.channels_last:
        return "x, x2 or residual is not channels-last"
    return None


class Result(NamedTuple):
    """What a backend returns."""

    y: torch.Tensor
    sum: torch.Tensor | None  # None unless the call keeps it


@dataclass(slots=True)
class Call:
    """The arguments of :func:`glide_fast.ops.group_norm_act`, under their names there; backends' ``run`` takes one.

    Raises:
        InvalidInputError: an argument that is to be a tensor is none. What else the contract asks for,
            :func:`check_arguments` checks.
    """

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
    windows: bool = False

    tensors: tuple[torch.Tensor | None, ...] = field(init=False)
    """The arguments that :data:`TENSORS` names."""

    # Strides between samples and between positions (layout.channel_rows); None where channels do not lie side by side, or
    # where there is no such tensor.
    x_rows: tuple[int, int] | None = field(init=False)
    x2_rows: tuple[int, int] | None = field(init=False)
    residual_rows: tuple[int, int] | None = field(init=False)

    def __post_init__(self) -> None:
        self.tensors = tuple([getattr(self, name) for name in TENSORS])  # a list is faster than a generator
        checks.tensors(TENSORS, self.tensors, 3)
        self.x_rows = channel_rows(self.x)
        self.x2_rows = None if self.x2 is None else channel_rows(self.x2)
        self.residual_rows = None if self.residual is None else channel_rows(self.residual)

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
        alike = True
        for p in (weight, self.bias):
            alike = alike and p.dtype == affine_dtype and p.device == device and p.stride(-1) == 1
        if scale is not None and shift is not None:
            film_dtype = scale.dtype
            for p in (scale, shift):
                alike = alike and p.dtype == film_dtype and p.device == device and p.stride(-1) == 1
        if self.x_bias is not None:
            alike = alike and self.x_bias.device == device and self.x_bias.stride(-1) == 1
        channels_last = (
            self.x_rows is not None
            and (self.x2 is None or self.x2_rows is not None)
            and (self.residual is None or self.residual_rows is not None)
        )
        return Facts(
            device.type,
            x.dtype,
            affine_dtype,
            film_dtype,
            None if self.x_bias is None else self.x_bias.dtype,
            alike,
            channels_last,
            x.numel() == 0,
            checks.gradients(self.tensors),
            self.windows,
            plain_tensor.why_not(TENSORS, self.tensors),
        )

    def empty_y(self) -> torch.Tensor:
        """Memory for y: channels-last where x is (a channel slice of a wider tensor included), otherwise contiguous.

        Windows are contiguous whatever x is.
        """
        n, _, *spatial = self.x.shape
        if self.resample == "nearest_x2":
            spatial = [2 * size for size in spatial]
        elif self.resample == "mean_2x2":
            spatial = [size // 2 for size in spatial]
        dtype = self.out_dtype or self.x.dtype
        if self.windows:
            return torch.empty((n, *spatial, TAPS, self.channels), dtype=dtype, device=self.x.device)
        return self._empty((n, self.channels, *spatial), dtype)

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
        if len(shape) == 4:
            return torch.empty(shape, dtype=dtype, device=self.x.device, memory_format=torch.channels_last)
        n, channels, *spatial = shape
        return torch.empty((n, *spatial, channels), dtype=dtype, device=self.x.device).movedim(-1, 1)


TENSORS = schema.tensors(Call)
"""The names of the arguments that are tensors; the first three are always there."""


def result_rows(call: Call, y: torch.Tensor) -> tuple[int, int] | None:
    """Strides of ``y`` from sample to sample and from position to position (:func:`~glide_fast.ops.layout.channel_rows`).

    Of windows a position is a whole one, nine pixels side by side.
    """
    return channel_rows(y.flatten(3).permute(0, 3, 1, 2) if call.windows else y)


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


def check_arguments(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`group_norm_act`."""
    x, weight, bias = call.x, call.weight, call.bias
    if x.dim() < 3:
        raise invalid(
            "x", tuple(x.shape), "a tensor of shape [N, C, ...] with at least one spatial dimension"
        )
    n, channels = x.shape[:2]
    if not channels:
        raise invalid("x", tuple(x.shape), "a tensor with at least one channel")
    checks.floating("x", x)
    if call.x2 is not None:
        _check_beside("x2", call.x2, x, (n, call.x2.shape[1] if call.x2.dim() > 1 else 1, *x.shape[2:]))
        channels += call.x2.shape[1]
    if call.residual is not None:
        _check_beside("residual", call.residual, x, tuple(x.shape))
    if call.x_bias is not None and call.x_bias.shape != (x.shape[1],):
        raise invalid("x_bias", tuple(call.x_bias.shape), f"a vector of x's {x.shape[1]} channels")
    if not checks.is_integer(call.groups) or call.groups < 1 or channels % call.groups:
        raise invalid("groups", call.groups, f"a divisor of the channel count {channels}")
    if weight.shape != (channels,) or bias.shape != (channels,):
        raise invalid(
            "weight, bias", (tuple(weight.shape), tuple(bias.shape)), f"two vectors of {channels} elements"
        )
    if (call.scale is None) != (call.shift is None):
        raise invalid(
            "scale, shift", (type(call.scale).__name__, type(call.shift).__name__), "both or neither"
        )
    for name, film in (("scale", call.scale), ("shift", call.shift)):
        if film is not None and film.shape != (n, channels):
            raise invalid(name, tuple(film.shape), f"a tensor of shape {(n, channels)}")
    if call.resample is not None:
        _check_resampling(call.resample, x)
    eps = checks.epsilon("eps", call.eps)
    if not torch.compiler.is_compiling():  # which has a symbol for it
        call.eps = eps
    checks.flag("silu", call.silu)
    checks.flag("keep_sum", call.keep_sum)
    checks.flag("windows", call.windows)
    if call.windows and x.dim() != 4:
        raise invalid("windows", f"True with x of shape {tuple(x.shape)}", "x of shape [N, C, H, W]")
    if call.out_dtype is not None and call.out_dtype is not x.dtype and call.out_dtype is not torch.float32:
        raise invalid("out_dtype", call.out_dtype, f"None, {x.dtype} (x's type) or torch.float32")


def _check_beside(name: str, tensor: torch.Tensor, x: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != x.dtype or tensor.device != x.device:
        wanted = f"[{x.shape[0]}, C2, {', '.join(map(str, x.shape[2:]))}]" if name == "x2" else str(shape)
        raise invalid(
            name,
            f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}",
            f"a tensor of shape {wanted}, {x.dtype}, on {x.device}, as x",
        )


def _check_resampling(mode: str, x: torch.Tensor) -> None:
    if not isinstance(mode, str) or mode not in RESAMPLINGS:
        raise invalid("resample", mode, f"None, {' or '.join(map(repr, RESAMPLINGS))}")
    if x.dim() != 4:
        raise invalid("resample", f"{mode!r} with x of shape {tuple(x.shape)}", "x of shape [N, C, H, W]")
    if mode == "mean_2x2" and (x.shape[2] % 2 or x.shape[3] % 2):
        raise invalid("resample", f"{mode!r} with x of shape {tuple(x.shape)}", "even H and W")
