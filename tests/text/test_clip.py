from __future__ import annotations

import copy
import gzip
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_fast.errors import InvalidInputError
from glide_fast.text.clip import SimpleTokenizer, basic_clean, default_bpe, get_tokenizer, whitespace_clean

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: repr(case["prompt"][:20]))
def test_golden(case: dict[str, Any]) -> None:
    tokenizer = get_tokenizer()
    tokens = tokenizer.encode(case["prompt"])
    assert tokens == case["simple"]
    assert list(tokenizer.padded_tokens_and_len(tokens, 77)) == case["simple_padded"]


def test_sizes_and_sharing() -> None:
    tokenizer = get_tokenizer()
    assert (tokenizer.n_vocab, tokenizer.start_token, tokenizer.end_token) == (49408, 49406, 49407)
    assert len(tokenizer.decoder) == 49408
    assert get_tokenizer() is tokenizer


def test_official_names() -> None:
    tokenizer = get_tokenizer()
    assert tokenizer.encoder["<|startoftext|>"] == 49406
    assert tokenizer.bpe_ranks["i", "n"] == 0
    assert tokenizer.bpe("vipassana") == "vi pass ana</w>"
    assert tokenizer.byte_decoder[tokenizer.byte_encoder[0]] == 0


def test_cleaning() -> None:
    assert basic_clean(" âœ” &lt;i&gt; \n") == "✔ <i>"
    assert basic_clean("<b> &amp;lt; &amp;amp;lt;") == "<b> < &lt;"  # ftfy leaves entities alone beside a "<"
    assert whitespace_clean("\u3000 a \t\r\n\u00a0b ") == "a b"
    encode = get_tokenizer().encode
    assert encode("âœ” Tom &amp;amp; JERRY\u3000\n") == encode("✔ tom & jerry")


def test_specials_in_text_are_read() -> None:
    assert get_tokenizer().encode("a <|startoftext|>A<|EndOfText|>") == [320, 49406, 320, 49407]


def test_lone_surrogates_are_mended() -> None:
    tokenizer = get_tokenizer()
    assert tokenizer.encode("a \ud83d\ude00") == tokenizer.encode("a 😀")
    assert tokenizer.encode("a \ud800") == tokenizer.encode("a \ufffd")


@settings(deadline=None)
@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyzéß東京", min_size=1), max_size=6))
def test_decode_gives_words_with_a_space_after_each(words: list[str]) -> None:
    tokenizer = get_tokenizer()
    assert tokenizer.decode(tokenizer.encode(" ".join(words))) == "".join(word + " " for word in words)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_encoding_is_of_the_cleaned_text(text: str) -> None:
    tokenizer = get_tokenizer()
    tokens = tokenizer.encode(text)
    assert all(0 <= token < 49408 for token in tokens)
    assert tokenizer.encode(f"\n {text}\t") == tokens


@settings(deadline=None)
@given(st.lists(st.integers(0, 49405), max_size=40), st.integers(2, 30))
def test_padding(tokens: list[int], text_ctx: int) -> None:
    before = list(tokens)
    padded, length = get_tokenizer().padded_tokens_and_len(tokens, text_ctx)
    assert len(padded) == text_ctx
    assert length == min(len(tokens) + 2, text_ctx)
    assert padded[:length] == [49406, *tokens[: text_ctx - 2], 49407]
    assert not any(padded[length:])
    assert tokens == before


def test_copies_and_pickles_encode_alike() -> None:
    tokenizer = get_tokenizer()
    for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert twin.encode("It's a corgi <|endoftext|>") == tokenizer.encode("It's a corgi <|endoftext|>")


def test_merges_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "merges.txt.gz"
    shutil.copy(default_bpe(), path)
    with gzip.open(path, "ab") as file:  # the original file goes on after the merges that CLIP uses
        file.write(b"zz qq\nzzqq qq\n")
    tokenizer = SimpleTokenizer(path)
    assert tokenizer.encoder == get_tokenizer().encoder
    assert SimpleTokenizer(bpe_path=default_bpe()).bpe_ranks == tokenizer.bpe_ranks


@pytest.mark.parametrize(
    "content",
    [
        b"an error page",
        b"",
        gzip.compress(b""),
        gzip.compress(b"header only\n"),
        gzip.compress(b"header\na b\n\nc d\n"),
        gzip.compress(b"header\na b c\n"),
        gzip.compress(b"header\n\xff\xfe b\n"),
        gzip.compress(b"header\nab c\n"),
        gzip.compress(b"header\na b\nab c\n" * 50)[:-12],
    ],
    ids=[
        "text",
        "empty",
        "empty-gz",
        "header",
        "blank-line",
        "triple",
        "not-utf8",
        "unknown-part",
        "truncated",
    ],
)
def test_files_that_hold_no_merges(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "merges.txt.gz"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"bpe_path: got|bpe_merges: got"):
        SimpleTokenizer(path)


@pytest.mark.parametrize("path", ["/no/such/file.gz", 3.5])
def test_paths_that_cannot_be_read(path: Any) -> None:
    with pytest.raises(InvalidInputError, match="bpe_path: got"):
        SimpleTokenizer(path)


@pytest.mark.parametrize("text", [None, b"bytes", 3, ["a"]])
def test_text_that_is_no_string(text: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"text: got .*accepted: a string"):
        get_tokenizer().encode(text)


@pytest.mark.parametrize("text_ctx", [-1, 0, 1, 77.0, None, True])
def test_bad_context(text_ctx: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"text_ctx: got .*>= 2"):
        get_tokenizer().padded_tokens_and_len([1], text_ctx)


@pytest.mark.parametrize("tokens", [None, "abc", 5])
def test_tokens_that_are_no_sequence(tokens: Any) -> None:
    with pytest.raises(InvalidInputError, match="tokens: got"):
        get_tokenizer().padded_tokens_and_len(tokens, 77)


def test_ids_outside_the_vocabulary() -> None:
    with pytest.raises(InvalidInputError, match=r"tokens\[1\]: got 49408"):
        get_tokenizer().decode([320, 49408])
