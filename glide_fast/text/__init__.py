"""Text in, token ids out: GPT-2's tokenizer for GLIDE itself, CLIP's for the noise-aware CLIP."""

from __future__ import annotations

from .clip import SimpleTokenizer, get_tokenizer
from .gpt2 import Encoder, get_encoder
from .prompts import PromptTruncatedWarning, tokenize, validate_prompts
from .vocabulary import UnknownWordsWarning, Vocabulary

__all__ = [
    "Encoder",
    "PromptTruncatedWarning",
    "SimpleTokenizer",
    "UnknownWordsWarning",
    "Vocabulary",
    "get_encoder",
    "get_tokenizer",
    "tokenize",
    "validate_prompts",
]
