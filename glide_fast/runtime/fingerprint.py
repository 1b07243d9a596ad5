"""A hash of a tensor's values, which shows every change; version counters do not show writes through raw memory."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from glide_fast.ops.convolution.packed_weight import PackedWeight

_WORD = 8
_ROW = 1 << 14
_ROWS = 8
"""How many rows are computed at a time: 1 MB of them, so that intermediate values stay in a core's cache."""


@functools.lru_cache(maxsize=8)
def _factors(device: torch.device) -> tuple[torch.Tensor, ...]:
    """Three vectors of odd random numbers. Multiplied by an odd number modulo 2**64, different words stay different."""
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode(False):
        numbers = torch.randint(-(2**62), 2**62, (3, _ROW), generator=generator, device="cpu") * 2 + 1
        return tuple(numbers.to(device))


def _words(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bits as int64 ``[W]``: a view where its memory allows, else a copy."""
    flat = tensor.detach()
    if flat.is_contiguous() or (flat.dim() == 4 and flat.is_contiguous(memory_format=torch.channels_last)):
        flat = flat.as_strided((flat.numel(),), (1,))
    else:
        flat = flat.flatten()
    if flat.numel() * flat.element_size() % _WORD:
        octets = flat.view(torch.uint8)
        return F.pad(octets, (0, -len(octets) % _WORD)).view(torch.int64)
    if flat.storage_offset() * flat.element_size() % _WORD:
        flat = flat.clone()
    return flat.view(torch.int64)


def _products(rows: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """``[R, W] x [W]`` modulo 2**64."""
    # CUDA multiplies no matrices of integers.
    return rows @ factors if rows.device.type == "cpu" else (rows * factors).sum(1)


def _sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of the tensor's words, each times a random factor, modulo 2**64."""
    words = _words(tensor)
    low, high, by_row = _factors(words.device)
    whole = len(words) // _ROW * _ROW
    pieces = [*words[:whole].view(-1, _ROW).split(_ROWS), words[None, whole:]]
    buffer = words.new_empty(max(map(len, pieces)), max(piece.shape[1] for piece in pieces if len(piece)))
    sums = []
    for piece in pieces:
        width = piece.shape[1]
        # A product modulo 2**64 hardly depends on a word's high bits (signs, in fp64), so the high half has a factor besides.
        halves = buffer[: len(piece), :width]
        torch.bitwise_right_shift(piece, 32, out=halves)
        sums.append(_products(piece, low[:width]) + _products(halves, high[:width]))
    by_rows = torch.cat(sums)
    return _products(by_rows[None], by_row[: len(by_rows)])[0]


@torch.no_grad()
def fingerprint(tensors: Iterable[torch.Tensor]) -> tuple[int, ...]:
    """A number for each tensor, which changes when the tensor's values do.

    A change of values leaves the number the same with a probability of at most about 2**-31. All tensors are read once; if they
    are on a GPU, the host waits for it once.

    Args:
        tensors: of any types and shapes, all on one device. A packed weight's memory cannot be read; its number is its version.
    """
    listed = list(tensors)
    plain = [tensor for tensor in listed if not isinstance(tensor, PackedWeight)]
    sums = iter(torch.stack([_sum(tensor) for tensor in plain]).tolist() if plain else ())
    return tuple(tensor.version if isinstance(tensor, PackedWeight) else next(sums) for tensor in listed)
