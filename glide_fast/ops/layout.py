"""How a tensor of shape [N, C, ...] lies in memory, as the channels-last kernels read it."""

from __future__ import annotations

import torch


def channel_rows(x: torch.Tensor) -> tuple[int, int] | None:
    """Strides from sample to sample and from position to position of a tensor whose channels lie side by side.

    ``x`` is ``[N, C, ...]``, strides are in elements, and all spatial dimensions together must be one evenly strided
    axis. None for any other layout, such as contiguous (channels-first) tensors of several channels and positions.
    """
    shape, stride = x.shape, x.stride()
    if len(shape) < 3 or (stride[1] != 1 and shape[1] != 1):
        return None
    if len(shape) == 4:  # pictures: the general way below takes twice as long
        _, channels, height, width = shape
        if width == 1:
            return stride[0], channels if height == 1 else stride[2]
        return None if height != 1 and stride[2] != width * stride[3] else (stride[0], stride[3])
    row, expected = shape[1], None
    for axis in range(x.dim() - 1, 1, -1):
        if shape[axis] == 1:
            continue
        if expected is None:
            row = expected = stride[axis]
        elif stride[axis] != expected:
            return None
        expected *= shape[axis]
    return stride[0], row


def pixel_strides(x: torch.Tensor) -> tuple[int, int, int] | None:
    """Strides from sample to sample, row to row and column to column of ``x`` ``[N, C, H, W]`` whose channels lie side by side.

    In elements; None where a pixel's channels are apart. Unlike :func:`channel_rows`, rows may be apart: a window of a larger
    picture has these strides.
    """
    if x.stride(1) != 1 and x.shape[1] != 1:
        return None
    return x.stride(0), x.stride(2), x.stride(3)


def empty_pixels(x: torch.Tensor, shape: tuple[int, int, int, int]) -> torch.Tensor:
    """A dense tensor of x's type and device, channels-last where x's channels lie side by side, contiguous otherwise."""
    channels_last = x.stride(1) == 1
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order)


def laid_out_as(promised: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """``result`` if it has the strides of ``promised``; else its values, copied into ``promised``.

    A tensor with one channel, say, can be described by different strides, and torch.compile insists on those that an operator's
    fake implementation returned.
    """
    return result if result.stride() == promised.stride() else promised.copy_(result)
