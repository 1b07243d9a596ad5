"""Parameters whose version counter also counts writes through ``.data``."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

_serials = itertools.count()


class Watched(nn.Parameter):
    """A parameter whose version rises with every write through ``.data``, and when ``.data`` is replaced.

    In torch ``p.data`` has a separate version counter, so the counter of ``p`` does not show that ``p.data += delta`` changed
    ``p``. Here both share the parameter's counter, as ``p.detach()`` does. Results of operations are plain tensors, as for every
    parameter; ``copy`` and ``pickle`` return ordinary parameters.

    Attributes:
        serial: a number that no other parameter ever has. (An ``id`` is used again once a parameter is gone.)
    """

    serial: int

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        """As in torch: the same memory, outside of autograd."""
        return self.detach()

    @data.setter
    def data(self, values: torch.Tensor) -> None:
        # A tensor of inference mode has no version counter, and the parameter would become such a tensor.
        with torch.inference_mode(False), torch.no_grad():
            if values.is_inference():
                values = values.clone(memory_format=torch.preserve_format)
            torch.Tensor.data.__set__(self, values)  # type: ignore[attr-defined]
            torch.autograd.graph.increment_version(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        if id(self) not in memo:
            values = self.detach().clone(memory_format=torch.preserve_format)
            memo[id(self)] = nn.Parameter(values, self.requires_grad)
        copied: nn.Parameter = memo[id(self)]
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return nn.Parameter(self.detach(), self.requires_grad).__reduce_ex__(protocol)


def watched(parameter: torch.Tensor) -> torch.Tensor:
    """Turn an ordinary parameter into a :class:`Watched` one, in place; returns the same object, other tensors unchanged."""
    if type(parameter) is nn.Parameter:
        parameter.__class__ = Watched
        parameter.serial = next(_serials)  # type: ignore[attr-defined]
    return parameter
