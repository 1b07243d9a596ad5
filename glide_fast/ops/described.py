"""A call of an op in words, for people: the sizes of its tensors, and the parts fused into it."""

from __future__ import annotations

import torch

from glide_fast.ops.backends import Choice
from glide_fast.ops.case import cases_of


def first_tensor(choice: Choice) -> torch.Tensor:
    """The call's first tensor; its type and device are shown as those of the call."""
    tensor: torch.Tensor = choice.call.tensors[0]
    return tensor


def described(choice: Choice) -> str:
    """Sizes and fused parts, such as ``2x192x64x64 + FiLM, SiLU``, from ``describe`` in the op's ``cases.py``."""
    words: str = cases_of(choice.op.name).describe(choice.call)
    return words
