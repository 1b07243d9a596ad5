from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_fast.errors import InvalidInputError
from glide_fast.text.gpt2 import Encoder, get_encoder

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizers.json").read_text(encoding="utf-8"))
TEXT = st.text(st.characters(exclude_categories=("Cs",)))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: repr(case["prompt"][:20]))
def test_golden(case: dict[str, Any]) -> None:
    encoder = get_encoder()
    tokens = encoder.encode(case["prompt"])
    padded, mask = encoder.padded_tokens_and_mask(tokens, 16)
    assert tokens == case["bpe"]
    assert [padded, [int(kept) for kept in mask]] == case["padded"]
    assert all(isinstance(kept, bool) for kept in mask)
    assert encoder.decode(tokens) == case["decoded"]


def test_sizes_and_sharing() -> None:
    encoder = get_encoder()
    assert (encoder.n_vocab, encoder.end_token) == (50257, 50256)
    assert encoder.decode([encoder.end_token]) == "<|endoftext|>"
    assert get_encoder() is encoder


def test_special_tokens_are_plain_text() -> None:
    encoder = get_encoder()
    assert encoder.end_token not in encoder.encode("<|endoftext|>")


@settings(deadline=None)
@given(TEXT)
def test_decode_gives_the_lower_cased_text(text: str) -> None:
    encoder = get_encoder()
    assert encoder.decode(encoder.encode(text)) == text.lower()


@settings(deadline=None)
@given(st.lists(st.integers(0, 50256), max_size=20))
def test_any_ids_decode(tokens: list[int]) -> None:
    encoder = get_encoder()
    spelled = "".join(encoder.decoder[token] for token in tokens)
    raw = bytes(encoder.byte_decoder[character] for character in spelled)
    assert encoder.decode(tokens) == raw.decode("utf-8", errors="replace")


@settings(deadline=None)
@given(st.lists(st.integers(0, 50255), max_size=40), st.integers(0, 30))
def test_padding(tokens: list[int], text_ctx: int) -> None:
    encoder = get_encoder()
    before = list(tokens)
    padded, mask = encoder.padded_tokens_and_mask(tokens, text_ctx)
    assert len(padded) == len(mask) == text_ctx
    assert mask == [position < len(tokens) for position in range(text_ctx)]
    assert [token for token, kept in zip(padded, mask, strict=True) if kept] == tokens[:text_ctx]
    assert all(token == 50256 for token, kept in zip(padded, mask, strict=True) if not kept)
    assert tokens == before


def test_a_cut_character_decodes_with_replacement() -> None:
    encoder = get_encoder()
    tokens = encoder.encode("🦄")
    assert len(tokens) > 1
    assert encoder.decode(tokens[:1]) == "\ufffd"
    strict = Encoder(encoder.encoder, list(encoder.bpe_ranks), errors="strict")
    with pytest.raises(UnicodeDecodeError):
        strict.decode(tokens[:1])


def test_ids_of_other_integer_types_decode() -> None:
    encoder = get_encoder()
    tokens = encoder.encode("a corgi")
    assert encoder.decode(torch.tensor(tokens)) == "a corgi"
    assert encoder.decode(np.array(tokens)) == "a corgi"
    assert encoder.padded_tokens_and_mask(tuple(tokens), np.int64(4)) == encoder.padded_tokens_and_mask(
        tokens, 4
    )


def test_official_names() -> None:
    encoder = get_encoder()
    assert encoder.encode(" the") == [encoder.encoder["Ġthe"]]
    assert encoder.decoder[encoder.encoder["the"]] == "the"
    assert encoder.bpe_ranks["Ġ", "t"] == 0
    assert encoder.bpe("vipassana") == "v ip ass ana"
    assert [encoder.byte_encoder[byte] for byte in b"a \n"] == ["a", "Ġ", "Ċ"]
    assert encoder.errors == "replace"


def test_a_vocabulary_of_ones_own() -> None:
    letters = list(get_encoder().byte_encoder.values())
    merges = [("a", "b"), ("ab", "ab")]
    encoder = Encoder({token: i for i, token in enumerate([*letters, "ab", "abab", "<end>"])}, merges)
    assert (encoder.n_vocab, encoder.end_token) == (259, 258)
    assert encoder.encode("ABABAB") == [257, 256]


def test_copies_and_pickles_encode_alike() -> None:
    encoder = get_encoder()
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert twin.encode("It's a corgi!") == encoder.encode("It's a corgi!")
        assert twin.decode(twin.encode("It's a corgi!")) == "it's a corgi!"


@pytest.mark.parametrize("text", [None, b"bytes", 3, ["a"], float("nan")])
def test_text_that_is_no_string(text: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"text: got .*accepted: a string"):
        get_encoder().encode(text)


def test_lone_surrogate() -> None:
    with pytest.raises(InvalidInputError, match="lone surrogates"):
        get_encoder().encode("a\ud800")


@pytest.mark.parametrize("text_ctx", [-1, 2.0, None, True, "3"])
def test_bad_context(text_ctx: Any) -> None:
    with pytest.raises(InvalidInputError, match="text_ctx: got"):
        get_encoder().padded_tokens_and_mask([1], text_ctx)


@pytest.mark.parametrize("tokens", [None, "abc", b"abc", 5, torch.tensor([1])])
def test_tokens_that_are_no_sequence(tokens: Any) -> None:
    with pytest.raises(InvalidInputError, match="tokens: got"):
        get_encoder().padded_tokens_and_mask(tokens, 4)


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        ([64, 50257], r"tokens\[1\]"),
        ([-1], r"tokens\[0\]"),
        ([1.5], r"tokens\[0\]"),
        ("hi", r"tokens\[0\]"),
        (7, "tokens"),
    ],
)
def test_ids_outside_the_vocabulary(tokens: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{named}: got"):
        get_encoder().decode(tokens)


def test_vocabulary_with_holes() -> None:
    letters = {letter: i for i, letter in enumerate(get_encoder().byte_encoder.values())}
    with pytest.raises(InvalidInputError, match="bpe_merges: got"):
        Encoder(letters, [("a", "b")])
    del letters["q"]
    with pytest.raises(InvalidInputError, match=r"encoder: got .*'q'"):
        Encoder(letters, [])
