"""Counts the copies in a trace of a forward pass: concatenations, layout changes and widened copies of activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from glide_fast.ops.convolution.packed_weight import PackedWeight

aten = torch.ops.aten

# Operators that only copy values from one address in memory to another.
MOVES = {
    *(aten.cat, aten.stack, aten.clone, aten.copy, aten.copy_, aten.repeat, aten.constant_pad_nd),
    *(aten.permute_copy, aten.transpose_copy, aten.view_copy, aten.expand_copy, aten._reshape_copy),
    *(aten.slice_scatter, aten.select_scatter, aten.channel_shuffle, aten.im2col),
}


class Copy(NamedTuple):
    """One copy: the operator as torch calls it, and the shape of what it wrote."""

    op: str
    shape: tuple[int, ...]


class _Recorder(TorchDispatchMode):
    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights = weights
        self.copies: list[Copy] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            # Without autograd (inference mode) these arrive whole: a reshape would hide its clone.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if self._copies(func, args, kwargs, result):
            self.copies.append(Copy(str(func), tuple(result.shape)))
        return result

    def _copies(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
        packet = func.overloadpacket
        read = args[1:2] if packet in (aten.copy_, aten.copy) else (args, kwargs)
        read = [x for x in tree_leaves(read) if isinstance(x, torch.Tensor) and self._is_activation(x)]
        if packet is aten._to_copy:
            # A conversion to a narrower type is allowed: a model in half precision needs one at its input.
            return any(result.is_floating_point() and result.itemsize >= x.itemsize for x in read)
        return packet in MOVES and bool(read)

    def _is_activation(self, x: torch.Tensor) -> bool:
        if x.layout != torch.strided or isinstance(x, PackedWeight):
            return False  # only weights are packed
        return x.is_floating_point() and x.dim() > 0 and x.untyped_storage()._cdata not in self.weights


def copies_of_activations(
    run: Callable[[], object], weights: nn.Module | Iterable[torch.Tensor] = ()
) -> list[Copy]:
    """Every copy of an activation that ``run()`` asks torch for, in inference mode and in order.

    An activation is a floating-point tensor with a dimension that does not lie in the memory of ``weights`` (a module stands for
    its parameters and buffers). Counted are concatenations, padding, clones and other copies that only move values, so also
    what ``contiguous`` and ``reshape`` copy, and conversions to a type as wide or wider. A view, an ``out=`` and a rounding to a
    narrower type are none. What kernels called outside of torch do is not seen.
    """
    if isinstance(weights, nn.Module):
        weights = [*weights.parameters(), *weights.buffers()]
    plain = [x for x in weights if not isinstance(x, PackedWeight)]
    recorder = _Recorder({x.untyped_storage()._cdata for x in plain})
    with torch.inference_mode(), recorder:
        run()
    return recorder.copies
