"""One call of resample: its arguments, their checks, and the facts by which a backend is chosen."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor, schema
from glide_fast.ops.layout import empty_pixels, pixel_strides

NEAREST_X2 = "nearest_x2"
MEAN_2X2 = "mean_2x2"
MODES = (NEAREST_X2, MEAN_2X2)


class Facts(NamedTuple):
    """The facts of a call by which a backend is chosen."""

    device: str  # torch.device.type of x
    dtype: torch.dtype
    bias_dtype: torch.dtype | None  # None without a bias
    together: bool  # bias and residual are on x's device, and bias has stride 1
    channels_last: bool  # the channels of a pixel lie side by side, in x and residual
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


def why_not(facts: Facts, dtypes: Collection[torch.dtype]) -> str | None:
    """Why a kernel that takes ``dtypes`` declines a call, as far as the reasons are the same for all kernels; None if none is."""
    for name, dtype in (("x", facts.dtype), ("bias", facts.bias_dtype)):
        if dtype is not None and dtype not in dtypes:
            accepted = ", ".join(str(one).removeprefix("torch.") for one in dtypes)
            return f"{name} is {dtype}; the kernel takes {accepted}"
    if not facts.together:
        return "bias or residual is not on x's device, or bias is not side by side in memory"
    if facts.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if facts.empty:
        return "x holds no elements"
    if not facts.channels_last:
        return "x or residual is not channels-last"
    return None


@dataclass(slots=True)
class Call:
    """The arguments of :func:`glide_fast.ops.resample`, under their names there; backends' ``run`` takes one.

    Raises:
        InvalidInputError: an argument that must be a tensor is not. :func:`check_arguments` checks the rest of the contract.
    """

    x: torch.Tensor
    mode: str
    bias: torch.Tensor | None = None
    residual: torch.Tensor | None = None

    tensors: tuple[torch.Tensor | None, ...] = field(init=False)
    """The arguments in :data:`TENSORS`, in its order."""

    def __post_init__(self) -> None:
        self.tensors = (self.x, self.bias, self.residual)
        checks.tensors(TENSORS, self.tensors, 1)

    def facts(self) -> Facts:
        """The facts of this call (with checked arguments), for ``OP.choose`` and ``OP.explain``."""
        x, bias, residual, together = self.x, self.bias, self.residual, True
        channels_last = pixel_strides(x) is not None
        if bias is not None:
            together = bias.device == x.device and bias.stride(0) == 1
        if residual is not None:
            together = together and residual.device == x.device
            channels_last = channels_last and pixel_strides(residual) is not None
        return Facts(
            x.device.type,
            x.dtype,
            None if bias is None else bias.dtype,
            together,
            channels_last,
            x.numel() == 0,
            checks.gradients(self.tensors),
            plain_tensor.why_not(TENSORS, self.tensors),
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the result."""
        n, c, height, width = self.x.shape
        if self.mode == NEAREST_X2:
            return n, c, 2 * height, 2 * width
        return n, c, height // 2, width // 2

    def empty_result(self) -> torch.Tensor:
        """Memory for the result: channels-last where x's channels lie side by side, otherwise contiguous."""
        return empty_pixels(self.x, self.shape)


TENSORS = schema.tensors(Call)
"""The names of the arguments that are tensors; only the first is never None."""


def check_arguments(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`glide_fast.ops.resample`."""
    x, mode, bias, residual = call.x, call.mode, call.bias, call.residual
    if not isinstance(mode, str) or mode not in MODES:
        raise invalid("mode", mode, " or ".join(map(repr, MODES)))
    checks.floating("x", x)
    if x.dim() != 4 or 0 in x.shape[1:]:
        accepted = "a floating-point tensor of shape [N, C, H, W] with C, H, W >= 1"
        raise invalid("x", f"{x.dtype} {tuple(x.shape)}", accepted)
    if mode == MEAN_2X2 and (x.shape[2] % 2 or x.shape[3] % 2):
        raise invalid("x", tuple(x.shape), f"an even height and width for {MEAN_2X2}")
    if bias is not None and tuple(bias.shape) != (x.shape[1],):
        raise invalid("bias", tuple(bias.shape), f"a vector of {x.shape[1]} elements")
    checks.any_floating(("bias",), (bias,))
    if residual is not None and (residual.shape, residual.dtype) != (x.shape, x.dtype):
        raise invalid(
            "residual",
            f"{residual.dtype} {tuple(residual.shape)}",
            f"the type and shape of x, {x.dtype} {tuple(x.shape)}",
        )
