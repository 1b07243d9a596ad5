"""A call of an op in words, for people: what its tensors' sizes are, and what is fused into it."""

from __future__ import annotations

import torch

from glide_fast.ops.backends import Choice
from glide_fast.ops.case import cases_of


def first_tensor(choice: Choice) -> torch.Tensor:
    """The call's first tensor, whose type and device count as the call's."""
    tensor: torch.Tensor = choice.call.tensors[0]
    return tensor


def described(choice: Choice) -> str:
    """Sizes and what is fused, such as ``2x192x64x64 + FiLM, SiLU``: the op's own ``cases.describe``."""
    words: str = cases_of(choice.op.name).describe(choice.call)
    return words
