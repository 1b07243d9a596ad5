"""Byte-level byte-pair encoding, as both vocabularies have it.

Text is cut into pieces by a pattern; each piece's UTF-8 bytes are spelled in an alphabet of 256 printable
characters and merged pair by pair, lowest rank first. Source: Radford et al. 2019, "Language Models are
Unsupervised Multitask Learners", section 2.2.
"""

from __future__ import annotations

import gzip
import operator
import os
import zlib
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache

from tokenizers import models

from ..errors import invalid


@lru_cache(maxsize=1)
def bytes_to_unicode() -> dict[int, str]:
    """Map each of the 256 byte values to the printable character that stands for it in a vocabulary.

    Latin-1 characters with a visible glyph stand for themselves and come first; the other bytes follow in
    order, with the code points from 256 on. The entries are in the order of the first 256 ids.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(visible)]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


def read_merges(path: str | os.PathLike[str], limit: int, argument: str = "path") -> list[tuple[str, str]]:
    """Read up to `limit` merges in order of rank from a gzipped merges file, whose first line is a header.

    Raises InvalidInputError naming `argument` when the file cannot be read or a line is not a pair.
    """
    accepted = "a gzipped UTF-8 file with a header line, then one 'left right' pair a line"
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().removesuffix("\n").split("\n")[1 : limit + 1]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, TypeError) as error:
        raise invalid(argument, path, f"{accepted} ({error})") from error
    if not lines:
        raise invalid(argument, path, f"{accepted} (there is no pair in it)")
    merges = []
    for number, line in enumerate(lines, start=2):
        pair = line.split()
        if len(pair) != 2:
            raise invalid(argument, path, f"{accepted} (line {number} is {line!r})")
        merges.append((pair[0], pair[1]))
    return merges


class ByteLevelBPE:
    """A byte-level vocabulary: pieces of text to ids and back.

    Args:
        encoder: token to id. It must hold every byte character (with `suffix` too, if there is one) and every
            merged token.
        bpe_merges: pairs of tokens, best first.
        errors: how `bytes.decode` treats bytes that are no UTF-8 when ids are turned back into text.
        suffix: mark carried by the last character of every piece.

    Raises:
        InvalidInputError: the merges do not fit the vocabulary.
    """

    def __init__(
        self,
        encoder: Mapping[str, int],
        bpe_merges: Iterable[tuple[str, str]],
        errors: str = "replace",
        *,
        suffix: str = "",
    ) -> None:
        self.encoder = dict(encoder)
        self.decoder = {index: token for token, index in self.encoder.items()}
        self.errors = errors
        self.byte_encoder = bytes_to_unicode()
        self.byte_decoder = {character: byte for byte, character in self.byte_encoder.items()}
        self._merges = [(left, right) for left, right in bpe_merges]
        # HF tokenizers would drop an unknown character silently, so a hole in the vocabulary is refused here.
        for character in self.byte_encoder.values():
            for token in {character, character + suffix}:
                if token not in self.encoder:
                    accepted = "a vocabulary with every byte character"
                    raise invalid("encoder", f"no entry {token!r}", accepted)
        for left, right in self._merges:
            if not {left, right, left + right} <= self.encoder.keys():
                raise invalid("bpe_merges", (left, right), "pairs whose parts and union are in the encoder")
        options = {"end_of_word_suffix": suffix} if suffix else {}
        self._model = models.BPE(vocab=self.encoder, merges=self._merges, **options)

    @property
    def n_vocab(self) -> int:
        """Number of entries in the vocabulary."""
        return len(self.encoder)

    @cached_property
    def bpe_ranks(self) -> dict[tuple[str, str], int]:
        """Rank of each merge, 0 first."""
        return {pair: rank for rank, pair in enumerate(self._merges)}

    def bpe(self, token: str) -> str:
        """Merge one piece, spelled in byte characters, into vocabulary entries, joined by spaces."""
        return " ".join(part.value for part in self._model.tokenize(token))

    def encode_piece(self, piece: str) -> list[int]:
        """Ids of one piece of plain text; no cutting into pieces happens here."""
        spelled = "".join(map(self.byte_encoder.__getitem__, piece.encode("utf-8")))
        return [part.id for part in self._model.tokenize(spelled)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of a sequence of ids: ints, or what converts to an index, such as elements of a tensor.

        Bytes that form no UTF-8 (a cut inside a character leaves such) are treated as `errors` says.
        Raises InvalidInputError for an id outside the vocabulary.
        """
        if not isinstance(tokens, Iterable):
            raise invalid("tokens", tokens, "a sequence of ids, as `encode` returns")
        characters = "".join(self._token(position, index) for position, index in enumerate(tokens))
        return bytes(map(self.byte_decoder.__getitem__, characters)).decode("utf-8", errors=self.errors)

    def _token(self, position: int, index: int) -> str:
        try:
            return self.decoder[operator.index(index)]
        except (KeyError, TypeError):
            accepted = f"an id of the vocabulary, an integer from 0 to {self.n_vocab - 1}"
            raise invalid(f"tokens[{position}]", index, accepted) from None
