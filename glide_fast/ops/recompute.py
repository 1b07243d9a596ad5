"""Gradients of an op whose kernels have no backward pass: those of its reference, computed again from the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def gradients(
    function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], upstream: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The product of ``upstream`` with the Jacobian of ``function(*inputs)``, one tensor for each input.

    Through ``torch.func``, which ``torch.compile`` can trace inside a backward pass, unlike a nested ``autograd.grad``.
    """
    pull_back = torch.func.vjp(function, *inputs)[1]
    products: tuple[torch.Tensor, ...] = pull_back(upstream)
    return products
