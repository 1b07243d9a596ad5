"""GPT-2's tokenizer on lower-cased text: what GLIDE's text transformer reads (arXiv 2112.10741, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import regex

from .byte_level import ByteLevelBPE, bytes_to_unicode, read_merges
from .checks import require_context, require_ids, require_utf8

__all__ = ["Encoder", "bytes_to_unicode", "get_encoder"]

_MERGES = Path(__file__).with_name("data") / "gpt2_merges.txt.gz"
_END_OF_TEXT = "<|endoftext|>"

# `regex` and not HF's own pre-tokenizer cuts the pieces: the two disagree on the class (letter, digit, other)
# of thousands of code points that newer Unicode versions added.
_PIECES = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d"  # English endings
    r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"  # letters, digits, anything else, each with one space in front
    r"|\s+(?!\S)|\s+"  # white space, leaving one space to the piece that follows
)


class Encoder(ByteLevelBPE):
    """GPT-2's byte-level BPE; the arguments are those of :class:`~glide_fast.text.byte_level.ByteLevelBPE`.

    Special tokens are never read out of text: "<|endoftext|>" in a prompt is plain characters.
    """

    def __init__(
        self, encoder: dict[str, int], bpe_merges: Sequence[tuple[str, str]], errors: str = "replace"
    ) -> None:
        super().__init__(encoder, bpe_merges, errors)

    @property
    def end_token(self) -> int:
        """Id of the end-of-text entry (50256), which GLIDE pads with."""
        return self.n_vocab - 1

    def encode(self, text: str) -> list[int]:
        """Ids of the lower-cased text, of any length and without start or end token; the empty text has none.

        Raises InvalidInputError when `text` is not a string or holds lone surrogates.
        """
        pieces = _PIECES.findall(require_utf8(text).lower())
        return [index for piece in pieces for index in self.encode_piece(piece)]

    def pieces(self, text: str) -> list[tuple[str, list[int]]]:
        """What :meth:`encode` reads one after the other: each word, number, sign or white space as typed, and its ids.

        A word has the space before it with it. Raises as :meth:`encode` does.
        """
        lowered = require_utf8(text).lower()
        typed = text if len(text) == len(lowered) else lowered  # a few capitals become two letters
        return [
            (typed[piece.start() : piece.end()], self.encode_piece(piece.group()))
            for piece in _PIECES.finditer(lowered)
        ]

    def padded_tokens_and_mask(self, tokens: Sequence[int], text_ctx: int) -> tuple[list[int], list[bool]]:
        """Cut `tokens` to `text_ctx` or pad them with `end_token`; the mask is False on padding.

        Raises InvalidInputError for a negative or non-integer `text_ctx` and `tokens` that are no sequence.
        """
        text_ctx = require_context(text_ctx, 0)
        kept = list(require_ids(tokens)[:text_ctx])
        padding = text_ctx - len(kept)
        return kept + [self.end_token] * padding, [True] * len(kept) + [False] * padding


@lru_cache(maxsize=1)
def get_encoder() -> Encoder:
    """GPT-2's 50,257-entry encoder, built once per process and shared."""
    merges = read_merges(_MERGES, limit=50_000)
    # Ids: the bytes, then the merges in order of rank, then the end of text.
    vocabulary = [*bytes_to_unicode().values(), *(left + right for left, right in merges), _END_OF_TEXT]
    return Encoder({token: index for index, token in enumerate(vocabulary)}, merges)
