"""Gradients of an op whose kernels have no backward pass: those of its reference, computed again from the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Outputs = TypeVar("Outputs", torch.Tensor, tuple[torch.Tensor, ...])


def gradients(
    function: Callable[..., Outputs], inputs: Sequence[torch.Tensor], upstream: Outputs
) -> tuple[torch.Tensor, ...]:
    """The product of ``upstream`` with the Jacobian of ``function(*inputs)``, one tensor for each input.

    ``upstream`` is a tensor, or a tuple of tensors, like the result of ``function``. This uses ``torch.func``, which
    ``torch.compile`` can trace inside a backward pass; a nested ``autograd.grad`` it cannot.
    """
    pull_back = torch.func.vjp(function, *inputs)[1]
    products: tuple[torch.Tensor, ...] = pull_back(upstream)
    return products
