"""One call of window_convolution: its arguments, what is accepted, and what the choice of a backend rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor, schema


class Facts(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # windows', as in torch.device.type
    dtype: torch.dtype  # of windows, weight and residual
    bias_dtype: torch.dtype | None  # None without bias
    sizes: tuple[int, int, int]  # windows of the batch, inputs, outputs
    residual: bool
    dense: bool  # windows are contiguous, weight and residual channels-last without gaps, bias side by side
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


@dataclass(slots=True)
class Call:
    """The arguments of :func:`glide_fast.ops.window_convolution` under their names there."""

    windows: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    residual: torch.Tensor | None = None

    tensors: tuple[torch.Tensor | None, ...] = field(init=False, repr=False)  # those that TENSORS names

    def __post_init__(self) -> None:
        self.tensors = (self.windows, self.weight, self.bias, self.residual)

    @property
    def result_shape(self) -> tuple[int, int, int, int]:
        """``[N, O, H, W]``."""
        n, height, width = self.windows.shape[:3]
        return n, self.weight.shape[0], height, width

    def facts(self) -> Facts:
        """The facts of this (checked) call, for ``OP.choose`` and ``OP.explain``."""
        windows, weight, bias, residual = self.windows, self.weight, self.bias, self.residual
        n, outputs, height, width = self.result_shape
        unreadable = plain_tensor.why_not(TENSORS, self.tensors)
        # torch.vmap's tensors know of no memory format.
        dense = unreadable is None and windows.is_contiguous() and bool(bias is None or bias.stride(0) == 1)
        for tensor in (weight, residual) if dense else ():
            dense = dense and (tensor is None or tensor.is_contiguous(memory_format=torch.channels_last))
        return Facts(
            windows.device.type,
            windows.dtype,
            None if bias is None else bias.dtype,
            (n * height * width, windows.shape[4], outputs),
            residual is not None,
            dense,
            windows.numel() == 0,
            checks.gradients(self.tensors),
            unreadable,
        )

    def empty_result(self) -> torch.Tensor:
        """Uninitialised memory for the result, channels-last."""
        n, outputs, height, width = self.result_shape
        rows = torch.empty((n, height, width, outputs), dtype=self.windows.dtype, device=self.windows.device)
        return rows.permute(0, 3, 1, 2)


TENSORS = schema.tensors(Call)
"""The arguments that are tensors."""


def check_arguments(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`glide_fast.ops.window_convolution`."""
    windows, weight, bias, residual = call.windows, call.weight, call.bias, call.residual
    checks.tensors(TENSORS, call.tensors, 2)
    if windows.dim() != 5 or windows.shape[3] != 9 or 0 in windows.shape[1:]:
        raise invalid("windows", tuple(windows.shape), "a tensor of shape [N, H, W, 9, C] with H, W, C >= 1")
    channels = windows.shape[4]
    if weight.dim() != 4 or weight.shape[0] < 1 or tuple(weight.shape[1:]) != (channels, 3, 3):
        raise invalid("weight", tuple(weight.shape), f"a weight of shape [O, {channels}, 3, 3]")
    if windows.dtype not in checks.FLOATING or weight.dtype != windows.dtype:
        raise invalid("windows, weight", (windows.dtype, weight.dtype), "one floating type for both")
    if bias is not None:
        if tuple(bias.shape) != (weight.shape[0],):
            raise invalid("bias", tuple(bias.shape), f"a vector of {weight.shape[0]} elements")
        if bias.dtype not in (windows.dtype, torch.float32):
            raise invalid("bias", bias.dtype, f"{windows.dtype} or torch.float32")
    if residual is not None:
        if tuple(residual.shape) != call.result_shape:
            raise invalid("residual", tuple(residual.shape), f"the result's shape {call.result_shape}")
        if residual.dtype != windows.dtype:
            raise invalid("residual", residual.dtype, f"the type of windows, {windows.dtype}")
