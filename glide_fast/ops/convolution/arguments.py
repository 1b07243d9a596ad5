"""One call of convolution: its arguments, what is accepted, and what the choice of a backend rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor, schema
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.convolution.window import Window, window


class Facts(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # x's, as in torch.device.type
    dtype: torch.dtype  # of x, weight and residual
    bias_dtype: torch.dtype | None  # None without bias
    window: Window
    channels: tuple[int, int]  # of x, of the result
    batch: int
    size: tuple[int, int]  # height and width of the result
    residual: bool
    packed: bool  # weight is a whole PackedWeight that oneDNN's copy can be read of
    tiled: bool  # weight is a whole PackedWeight in the layout of Winograd's kernel, and bias is dense
    channels_last: bool  # x and residual, densely
    in_place: bool  # weight is a plain tensor whose input channels lie side by side, and bias is dense
    alike: bool  # all operands on x's device
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


@dataclass(slots=True)
class Call:
    """The arguments of :func:`glide_fast.ops.convolution` under their names there, as backends' ``run`` takes them."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    stride: int | Sequence[int] = 1
    padding: int | Sequence[int] | None = None

    tensors: tuple[torch.Tensor | None, ...] = field(init=False, repr=False)  # those that TENSORS names
    _window: Window | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.tensors = (self.x, self.weight, self.bias, self.residual)

    @property
    def window(self) -> Window:
        """Kernel, stride and padding as pairs.

        Raises:
            InvalidInputError: for a weight, stride or padding outside the contract.
        """
        if self._window is None:
            self._window = window(self.weight, self.stride, self.padding)
        return self._window

    @property
    def result_shape(self) -> tuple[int, int, int, int]:
        """``[N, O, H', W']``."""
        n, _, height, width = self.x.shape
        return (n, self.weight.shape[0], *self.window.size(height, width))

    def facts(self) -> Facts:
        """The facts of this (checked) call, for ``OP.choose`` and ``OP.explain``."""
        x, weight, bias, residual = self.x, self.weight, self.bias, self.residual
        held = weight if isinstance(weight, PackedWeight) else None
        device = x.device
        dense_bias, alike, gradients = True, weight.device == device, x.requires_grad or weight.requires_grad
        if bias is not None:
            dense_bias = bias.stride(0) == 1
            alike = alike and bias.device == device
            gradients = gradients or bias.requires_grad
        if residual is not None:
            alike = alike and residual.device == device
            gradients = gradients or residual.requires_grad
        # Of a PackedWeight the copies that it holds are read, not its address.
        unreadable = plain_tensor.why_not(
            TENSORS, self.tensors if held is None else (x, None, bias, residual)
        )
        n, outputs, *size = self.result_shape
        return Facts(
            device.type,
            x.dtype,
            None if bias is None else bias.dtype,
            self.window,
            (x.shape[1], outputs),
            n,
            (size[0], size[1]),
            residual is not None,
            held is not None and held.packed is not None,
            held is not None and dense_bias and held.tiles is not None,
            # torch.vmap's tensors know of no memory format.
            unreadable is None
            and x.is_contiguous(memory_format=torch.channels_last)
            and (residual is None or residual.is_contiguous(memory_format=torch.channels_last)),
            held is None and dense_bias and (weight.stride(1) == 1 or weight.shape[1] == 1),
            alike,
            x.numel() == 0,
            gradients and torch.is_grad_enabled(),
            unreadable,
        )

    def empty_result(self) -> torch.Tensor:
        """Uninitialised memory for the result: channels-last where x is (and is dense), contiguous otherwise."""
        x = self.x
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty(self.result_shape, dtype=x.dtype, device=x.device, memory_format=layout)


TENSORS = schema.tensors(Call)
"""The arguments that are tensors."""


def check_arguments(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`glide_fast.ops.convolution`.

    Leaves ``call.stride`` and ``call.padding`` pairs.
    """
    x, weight, bias, residual = call.x, call.weight, call.bias, call.residual
    checks.tensors(TENSORS, call.tensors, 2)
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise invalid("x", tuple(x.shape), "a tensor of shape [N, C, H, W] with C, H, W >= 1")
    _, call.stride, call.padding = call.window
    outputs, channels = weight.shape[:2]
    if channels != x.shape[1]:
        raise invalid("weight", tuple(weight.shape), f"a weight for the {x.shape[1]} channels of x")
    if x.dtype not in checks.FLOATING or weight.dtype != x.dtype:
        raise invalid("x, weight", (x.dtype, weight.dtype), "one floating type for both")
    shape = call.result_shape
    if shape[2] < 1 or shape[3] < 1:
        raise invalid("x", tuple(x.shape), f"an image that a window of {call.window} fits into")
    if bias is not None:
        if tuple(bias.shape) != (outputs,):
            raise invalid("bias", tuple(bias.shape), f"a vector of {outputs} elements")
        if bias.dtype not in (x.dtype, torch.float32):
            raise invalid("bias", bias.dtype, f"{x.dtype} or torch.float32")
    if residual is not None:
        if tuple(residual.shape) != shape:
            raise invalid("residual", tuple(residual.shape), f"the result's shape {shape}")
        if residual.dtype != x.dtype:
            raise invalid("residual", residual.dtype, f"the type of x, {x.dtype}")
