"""How far rounding alone may lead a sampling loop: the same loop, with each step's input moved by one unit in the last place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

FORWARD_UNITS = 8
"""Rounding of a whole forward, in units of the last place of its input; 84 of them are the 1e-5 that a forward is held to."""

Network = Callable[..., torch.Tensor]


def rounded_once_more(network: Network) -> Network:
    """``network`` with each value of its input moved by one unit in the last place, up or down."""
    generator = torch.Generator().manual_seed(0)

    def moved(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        up = torch.rand(x.shape, generator=generator) < 0.5
        return network(torch.nextafter(x, torch.where(up, torch.inf, -torch.inf)), *arguments, **options)

    return moved


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    """The relative L2 error."""
    return float((got.double() - want.double()).norm() / want.double().norm())


def assert_within(error: float, tolerance: float, moved: Callable[[], float]) -> None:
    """The error is below the tolerance, or else within what rounding does to this very loop.

    ``moved`` measures that, where it is asked for: the error of the loop whose input is :func:`rounded_once_more`.
    """
    if error >= tolerance:
        by_rounding = moved()
        assert error < min(FORWARD_UNITS * by_rounding, 50 * tolerance), (error, by_rounding)
