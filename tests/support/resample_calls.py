"""Arguments of resample whose pictures are windows of larger ones, full of NaN around them: a read outside would show."""

from __future__ import annotations

from typing import Any

import torch


def picture(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    generator: torch.Generator,
    gaps: tuple[int, int, int],
    device: str = "cpu",
) -> torch.Tensor:
    """A channels-last picture ``[N, C, H, W]``, with ``gaps`` more rows, columns and channels of NaN around it."""
    n, c, height, width = shape
    rows, columns, channels = gaps
    arena = torch.full((n, height + rows, width + columns, c + channels), float("nan"), dtype=dtype)
    above, left, before = (gap // 2 for gap in gaps)
    window = (..., slice(above, above + height), slice(left, left + width), slice(before, before + c))
    arena[window] = (torch.randn(n, height, width, c, generator=generator) * 0.5 + 2.3).to(dtype)
    return arena.to(device)[window].permute(0, 3, 1, 2)


def arguments(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    bias: torch.dtype | None,
    residual: bool,
    seed: int = 0,
    gaps: tuple[int, int, int] = (0, 0, 0),
    device: str = "cpu",
) -> dict[str, Any]:
    """The tensors of a call of resample by name. ``bias``: its type, or None without one."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": picture(shape, dtype, generator, gaps, device),
        "bias": None if bias is None else torch.randn(shape[1], generator=generator).to(device, bias),
        "residual": picture(shape, dtype, generator, gaps[::-1], device) if residual else None,
    }
