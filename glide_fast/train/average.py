"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class WeightAverage(Generic[M]):
    """Keeps a copy of ``model`` whose parameters follow it as ``average = d average + (1 - d) current``.

    The decay d at update n is ``min(decay, (1 + n) / (10 + n))``, so that the first average is not the initial weights.
    """

    def __init__(self, model: M, decay: float) -> None:
        # Its tables never change, and take longer to copy than the weights.
        tokenizer = getattr(model, "tokenizer", None)
        self.model: M = copy.deepcopy(model, {id(tokenizer): tokenizer}).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights of ``model`` after optimiser step ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[torch.Tensor] = list(self.model.parameters())
        currents = [p.detach() for p in model.parameters()]
        torch._foreach_lerp_(averages, currents, 1 - decay)
        for average, current in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(current)
