"""Stands for ``glide_text2im.tokenizer.bpe``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from glide_fast.text.gpt2 import Encoder, bytes_to_unicode, get_encoder

__all__ = ["Encoder", "bytes_to_unicode", "get_encoder", "get_pairs"]


def get_pairs(word: Sequence[str]) -> set[tuple[str, str]]:
    """The pairs of neighbouring symbols of a word."""
    return set(itertools.pairwise(word))
