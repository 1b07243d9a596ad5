"""CLIP's tokenizer (Radford et al. 2021, arXiv 2103.00020, section 2.4), for the noise-aware CLIP."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import regex

from .byte_level import ByteLevelBPE, bytes_to_unicode, read_merges
from .checks import require_context, require_ids, require_text

__all__ = [
    "SimpleTokenizer",
    "basic_clean",
    "bytes_to_unicode",
    "default_bpe",
    "get_tokenizer",
    "whitespace_clean",
]

_START = "<|startoftext|>"
_END = "<|endoftext|>"
_WORD_END = "</w>"
_MERGE_COUNT = 48_894  # leaves 49,408 entries with 256 bytes, the same 256 ending a word, and two specials

# Unlike GPT-2's pattern: the two specials are read out of text, digits stand alone, white space is dropped.
# Ignoring case still matters in lower-cased text, for "'ſ" (long s) is then an English ending.
_PIECES = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


def default_bpe() -> str:
    """Path of the merges file that ships with the package."""
    return str(Path(__file__).with_name("data") / "clip_merges.txt.gz")


def basic_clean(text: str) -> str:
    """Mend mis-decoded text with ftfy, unescape HTML twice ("&amp;lt;" becomes "<") and trim."""
    import ftfy  # here: only CLIP's prompts want it, and its tables take long to load

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def whitespace_clean(text: str) -> str:
    """Fold every run of white space into one space and trim."""
    return regex.sub(r"\s+", " ", text).strip()


class SimpleTokenizer(ByteLevelBPE):
    """CLIP's byte-level BPE of 49,408 entries, which tell the end of a word from its inside.

    Args:
        bpe_path: gzipped merges file, header line first, of which the first 48,894 merges are read; without
            it, the one that ships with the package.

    Raises:
        InvalidInputError: the file cannot be read or is no merges file.
    """

    def __init__(self, bpe_path: str | os.PathLike[str] | None = None) -> None:
        path = default_bpe() if bpe_path is None else bpe_path
        merges = read_merges(path, limit=_MERGE_COUNT, argument="bpe_path")
        characters = list(bytes_to_unicode().values())
        vocabulary = [
            *characters,
            *(character + _WORD_END for character in characters),
            *(left + right for left, right in merges),
            _START,
            _END,
        ]
        encoder = {token: index for index, token in enumerate(vocabulary)}
        super().__init__(encoder, merges, suffix=_WORD_END)

    @property
    def start_token(self) -> int:
        """Id that opens every padded sequence (49406)."""
        return self.encoder[_START]

    @property
    def end_token(self) -> int:
        """Id that closes every padded sequence (49407)."""
        return self.encoder[_END]

    def encode(self, text: str) -> list[int]:
        """Ids of the cleaned, lower-cased text, of any length and without start or end token.

        As in the original, the specials written out in the text become their single ids.
        Raises InvalidInputError when `text` is not a string.
        """
        cleaned = whitespace_clean(basic_clean(require_text(text))).lower()
        return [index for piece in _PIECES.findall(cleaned) for index in self.encode_piece(piece)]

    def encode_piece(self, piece: str) -> list[int]:
        if piece in (_START, _END):
            return [self.encoder[piece]]
        return super().encode_piece(piece)

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of a sequence of ids, a space after every word; not the inverse of `encode`, which cleans."""
        return super().decode(tokens).replace(_WORD_END, " ")

    def padded_tokens_and_len(self, tokens: Sequence[int], text_ctx: int) -> tuple[list[int], int]:
        """Put `tokens` between start and end, cut and zero-padded to `text_ctx`; also the unpadded length.

        Raises InvalidInputError for a `text_ctx` below 2 and for `tokens` that are no sequence.
        """
        text_ctx = require_context(text_ctx, 2)
        kept = list(require_ids(tokens)[: text_ctx - 2])
        framed = [self.start_token, *kept, self.end_token]
        return framed + [0] * (text_ctx - len(framed)), len(framed)


@lru_cache(maxsize=1)
def get_tokenizer() -> SimpleTokenizer:
    """CLIP's tokenizer with the shipped merges, built once per process and shared."""
    return SimpleTokenizer()
