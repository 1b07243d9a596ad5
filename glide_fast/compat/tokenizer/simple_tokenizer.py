"""Stands for ``glide_text2im.tokenizer.simple_tokenizer``."""

from __future__ import annotations

from glide_fast.compat.tokenizer.bpe import get_pairs
from glide_fast.text.clip import SimpleTokenizer, basic_clean, bytes_to_unicode, default_bpe, whitespace_clean

__all__ = [
    "SimpleTokenizer",
    "basic_clean",
    "bytes_to_unicode",
    "default_bpe",
    "get_pairs",
    "whitespace_clean",
]
