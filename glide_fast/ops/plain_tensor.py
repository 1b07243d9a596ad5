"""Whether a tensor is just the values at its address; any other must be left to torch's operators.

A kernel outside of torch reads ``data_ptr()``. The values there are not the whole tensor if a flag says that they are to be
negated, if the tensor has a tangent of forward-mode differentiation or a batch dimension of ``torch.vmap``, if a subclass gives
them another meaning, or if torch records operators at present instead of running them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.autograd import forward_ad


@functools.lru_cache(
    maxsize=256
)  # bounded: a program may create classes in a loop, and the cache would keep them all
def _is_plain(cls: type[torch.Tensor]) -> bool:
    """Whether tensors of this class behave as ordinary ones: torch's classes, and subclasses of Parameter without torch hooks."""
    if cls is torch.Tensor or cls is nn.Parameter:
        return True
    return (
        issubclass(cls, nn.Parameter)
        and cls.__torch_function__ is nn.Parameter.__torch_function__
        and cls.__torch_dispatch__ is nn.Parameter.__torch_dispatch__
    )


_RECORDING = (
    torch._C._TorchDispatchModeKey.FAKE,
    torch._C._TorchDispatchModeKey.PROXY,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
)

Tensors = Sequence[torch.Tensor | None]


def why_not(names: Sequence[str], tensors: Tensors) -> str | None:
    """Why these (dense) tensors cannot be read and written by their addresses, here and now; None where they can.

    Args:
        names: of the arguments, for the reason.
        tensors: one for each name; None for an argument that is absent.
    """
    own = torch.Tensor
    for tensor in tensors:
        if tensor is None:
            continue
        if (
            (type(tensor) is not own and not _is_plain(type(tensor)))
            or tensor.is_neg()
            or tensor._is_zerotensor()
        ):
            break
    else:
        # A plain tensor carries more than its values only while a transform is active; the tensors are examined one by one then.
        if forward_ad._current_level < 0 and torch._C._functorch.peek_interpreter_stack() is None:
            return _why_recording()
    for name, tensor in zip(names, tensors, strict=True):
        reason = None if tensor is None else _more_than_memory(tensor)
        if reason is not None:
            return f"{name} {reason}"
    return _why_recording()


def _more_than_memory(tensor: torch.Tensor) -> str | None:
    """Why the tensor is more than its memory, as a phrase that follows its name; None if it is not."""
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "belongs to torch.vmap or another transform of torch.func"
    if not _is_plain(type(tensor)):
        return f"is a {type(tensor).__name__}, a subclass of torch.Tensor"
    if tensor.is_neg():
        return "is a view whose values are to be negated when they are read"
    if tensor._is_zerotensor():
        return "stands for zeros that are not in memory"
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        return "carries a tangent of forward-mode differentiation"
    return None


def _why_recording() -> str | None:
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace records torch's own operators"
    return "torch records operators instead of running them" if _recording() else None


def _recording() -> bool:
    """Whether a FakeTensorMode, a make_fx or a functionalization is active; modes that only watch do not count."""
    if torch._C._dispatch_tls_is_dispatch_key_included(torch._C.DispatchKey.PreDispatch):
        return True
    return torch._C._len_torch_dispatch_stack() > 0 and any(
        torch._C._get_dispatch_mode(mode) is not None for mode in _RECORDING
    )


def outside_of_traces(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What ``make`` returns, with torch.jit.trace paused: a trace then holds its values as a constant.

    Under the dispatch of a subclass the tracer would not see which of torch's operators read them, and would hold the results.
    """
    state = torch._C._get_tracing_state()
    if state is None:
        return make()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        return make()
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def as_one_node(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Whether to run the op as one registered operator: the tensors have no values yet, or torch records operators in a graph.

    Call it only where :func:`why_not` has a reason. Transforms of torch.func and forward-mode differentiation need the reference
    instead, since they must see its operators to differentiate and batch them.
    """
    present = [tensor for tensor in tensors if tensor is not None]
    if torch._C._get_tracing_state() is not None or any(map(_transformed, present)):
        return False
    return _recording() or any(map(_is_fake, present))


def _transformed(tensor: torch.Tensor) -> bool:
    wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return wrapped or (forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None)


def _is_fake(tensor: torch.Tensor) -> bool:
    # The module of FakeTensor takes long to import; where nothing has imported it no such tensor exists.
    module = sys.modules.get("torch._subclasses.fake_tensor")
    return module is not None and isinstance(tensor, module.FakeTensor)
