"""Both tokenizers against a naive one: a scanner on Unicode categories and a plain merge loop."""

from __future__ import annotations

import gzip
import html
import unicodedata
from itertools import pairwise
from pathlib import Path

import ftfy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import glide_fast.text
from glide_fast.text.clip import get_tokenizer
from glide_fast.text.gpt2 import get_encoder

DATA = Path(glide_fast.text.__file__).parent / "data"
ENDINGS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
SPECIALS = ("<|startoftext|>", "<|endoftext|>")


class Naive:
    """A vocabulary in dictionaries, with an optional word-end mark."""

    def __init__(self, file: str, end: str, specials: tuple[str, ...]) -> None:
        lines = gzip.decompress((DATA / file).read_bytes()).decode("utf-8").splitlines()[1:]
        self.ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(lines)}
        own = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
        spare = iter(range(256, 512))
        self.spelling = {b: chr(b if b in own else next(spare)) for b in range(256)}
        letters = sorted(self.spelling.values())
        words = [letter + end for letter in letters] if end else []
        merged = ["".join(pair) for pair in self.ranks]
        self.ids = {token: i for i, token in enumerate([*letters, *words, *merged, *specials])}
        self.end = end
        self.specials = specials if end else ()

    def piece(self, text: str) -> list[int]:
        if text in self.specials:
            return [self.ids[text]]
        symbols = [self.spelling[b] for b in text.encode("utf-8")]
        symbols[-1] += self.end
        while True:
            known = [pair for pair in pairwise(symbols) if pair in self.ranks]
            if not known:
                return [self.ids[symbol] for symbol in symbols]
            best = min(known, key=self.ranks.__getitem__)
            merged: list[str] = []
            while symbols:
                width = 2 if tuple(symbols[:2]) == best else 1
                merged.append("".join(symbols[:width]))
                symbols = symbols[width:]
            symbols = merged


GPT2 = Naive("gpt2_merges.txt.gz", "", ("<|endoftext|>",))
CLIP = Naive("clip_merges.txt.gz", "</w>", SPECIALS)


def kind(character: str) -> str:
    category = unicodedata.category(character)[0]
    if category in "LN":
        return category
    # Python counts the four information separators as spaces, Unicode's White_Space property does not.
    return "space" if character.isspace() and character not in "\x1c\x1d\x1e\x1f" else "other"


def run_end(text: str, start: int) -> int:
    end = start
    while end < len(text) and kind(text[end]) == kind(text[start]):
        end += 1
    return end


def naive_gpt2(text: str) -> list[int]:
    text, at, ids = text.lower(), 0, []
    while at < len(text):
        word = at + 1 if text[at] == " " else at
        ending = next((e for e in ENDINGS if text.startswith(e, at)), None)
        if ending:
            end = at + len(ending)
        elif word < len(text) and kind(text[word]) != "space":
            end = run_end(text, word)
        else:
            end = run_end(text, at)
            if end < len(text) and end - at > 1:
                end -= 1
        ids += GPT2.piece(text[at:end])
        at = end
    return ids


def naive_clip(text: str) -> list[int]:
    text = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
    at, ids = 0, []
    while at < len(text):
        whole = next((w for w in SPECIALS + ENDINGS if text[at : at + len(w)].casefold() == w), None)
        if whole:
            end = at + len(whole)
        elif kind(text[at]) == "N":
            end = at + 1
        else:
            end = run_end(text, at)
        if kind(text[at]) != "space":
            ids += CLIP.piece(text[at:end])
        at = end
    return ids


FRAGMENTS = [
    *ENDINGS,
    *SPECIALS,
    "don't YOU'LL we'Ve",
    "'ſ <|ſtartoftext|>",
    "antidisestablishmentarianism",
    "a" * 70,
    "!?!?...---###",
    "...'s''t",
    "3.14159 1,000,000 ½ Ⅷ ²",
    "東京タワー 火事 ひらがな",
    "🐱\u200d👤 👩🏽\u200d🚀 ❤️ 🇫🇷",
    "naïve CAFÉ e\u0301 ÅNGSTRÖM K ß İ ΟΔΟΣ ǅ ﬁ",
    "  \t\n \u00a0\u3000\u2028 ",
    " ",
    "\x00\x1c\x1f\x85\ufeff",
    "&amp;amp;lt;b&amp;gt; &#233; &nbsp;",
    "</w>",
    "âœ” schÃ¶n",
    "“curly” ‘quotes’ — dash",
]
TEXTS = st.lists(
    st.sampled_from(FRAGMENTS) | st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=8),
    max_size=6,
).map("".join)


@pytest.mark.parametrize("text", FRAGMENTS)
def test_fragments(text: str) -> None:
    assert get_encoder().encode(text) == naive_gpt2(text)
    assert get_tokenizer().encode(text) == naive_clip(text)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("")
def test_gpt2_equals_naive(text: str) -> None:
    assert get_encoder().encode(text) == naive_gpt2(text)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("")
def test_clip_equals_naive(text: str) -> None:
    assert get_tokenizer().encode(text) == naive_clip(text)


def test_vocabularies_equal_naive() -> None:
    for tokenizer, naive, merges in ((get_encoder(), GPT2, 50_000), (get_tokenizer(), CLIP, 48_894)):
        assert len(naive.ranks) == merges
        assert tokenizer.encoder == naive.ids
        assert tokenizer.bpe_ranks == naive.ranks
